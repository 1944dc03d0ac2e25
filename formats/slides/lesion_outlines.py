"""Outlines of lesions in files of ASAP (XML) or QuPath (GeoJSON), in pixels of level 0.

Both tools name a group or class of each outline. What is no lesion, although it lies inside one, is
outlined as `CUT_OUT`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from formats.slides.geojson import Points, Polygon, polygons_of
from structures import DataProblems, Problem

LESION_GROUPS = ("_0", "_1", "metastases", "tumor")  # of ASAP, ignoring case  # A642
CUT_OUT = ("_2", "normal", "exclusion")
SUFFIXES = (".xml", ".geojson", ".json")


class LesionOutlines(NamedTuple):
    """Outlines of a slide.

    Attributes:
        lesions: polygons of lesions, which may overlap.
        cut_out: polygons of what is no lesion; they win over lesions.
    """

    lesions: list[Polygon]
    cut_out: list[Polygon]


def read_lesion_outlines(path: Path) -> LesionOutlines:
    """Read the outlines of a slide.

    In XML a group outside of `LESION_GROUPS` and `CUT_OUT` is an error. In GeoJSON everything is a
    lesion but the classes `CUT_OUT` and those that begin with ``Ignore``. What ASAP has drawn with
    fewer than three points has no area and is left out.

    Raises:
        DataProblems: the file is neither ASAP's XML nor GeoJSON of polygons.
    """
    if path.suffix.lower() == ".xml":
        return _sorted(path, _asap(path))
    return _sorted(path, _geojson(path))


def _sorted(path: Path, found: Iterator[tuple[str, list[Polygon]]]) -> LesionOutlines:
    outlines = LesionOutlines([], [])
    try:
        for group, polygons in found:
            cut = group.lower() in CUT_OUT or group.lower().startswith("ignore")
            (outlines.cut_out if cut else outlines.lesions).extend(polygons)
    except (ElementTree.ParseError, ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, DataProblems):
            raise
        remedy = "export the outlines again, as XML of ASAP or as GeoJSON of polygons"
        raise DataProblems(
            [Problem(path, None, None, f"outlines cannot be read ({error})", remedy)]
        ) from error
    return outlines


def _asap(path: Path) -> Iterator[tuple[str, list[Polygon]]]:
    root = ElementTree.parse(path).getroot()
    if root.tag != "ASAP_Annotations":
        raise ValueError(f"the root is {root.tag}, not ASAP_Annotations")
    for annotation in root.iter("Annotation"):
        group = annotation.get("PartOfGroup", "")
        if group.lower() not in (*LESION_GROUPS, *CUT_OUT):
            raise DataProblems([_unknown_group(path, annotation.get("Name", ""), group)])
        ring = _ring(annotation)
        if len(ring) >= 3:
            yield group, [[ring]]


def _unknown_group(path: Path, name: str, group: str) -> Problem:
    remedy = (
        f"name the groups of lesions {', '.join(LESION_GROUPS)} and those of what is cut out of "
        f"them {', '.join(CUT_OUT)}"
    )
    return Problem(path, name, None, f"the group is {group!r}", remedy, kind="annotation")


def _ring(annotation: ElementTree.Element) -> Points:
    """Return (n, 2) of the points (x, y) in the order that they state."""
    points = list(annotation.iter("Coordinate"))
    points.sort(key=lambda point: float(point.get("Order", "0")))
    ring = np.array([(float(p.attrib["X"]), float(p.attrib["Y"])) for p in points])
    if not np.isfinite(ring).all():
        raise ValueError("a coordinate is not finite")
    return ring.reshape(-1, 2)


def _geojson(path: Path) -> Iterator[tuple[str, list[Polygon]]]:
    for feature in _features(json.loads(path.read_text(encoding="utf-8"))):
        kind = (feature.get("properties") or {}).get("classification") or {}
        name = kind if isinstance(kind, str) else kind.get("name") or ""
        yield name, polygons_of(feature)


def _features(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, list):
        for one in content:
            yield from _features(one)
    elif content["type"] == "FeatureCollection":
        yield from _features(content["features"])
    else:
        yield content
