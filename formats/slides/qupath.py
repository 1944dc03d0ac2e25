"""Objects on a slide as the GeoJSON that QuPath reads and writes.

One FeatureCollection a slide. A feature is a Polygon or MultiPolygon whose properties are
``objectType``, ``measurements`` (an object of numbers), ``classification`` (``name`` and ``color``,
three numbers of 0 to 255) and ``isLocked``. Rings are closed, an ``id`` is a UUID or absent, and no
number is NaN or infinite: QuPath refuses a whole file for any of these. Coordinates are pixels of
level 0 from the corner of the slide's bounds (``openslide.bounds-x, -y``), to which QuPath crops.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from formats.files import atomic_write
from formats.slides.geojson import Polygon

Colour = tuple[int, int, int]
Corner = tuple[float, float]
KINDS = ("annotation", "detection", "tile", "cell")
_DIGITS = 6  # significant digits of a measurement


class SlideObject(NamedTuple):
    """An object on a slide, in pixels of level 0 of the whole file.

    Attributes:
        kind: one of `KINDS`.
        polygons: its parts; each is an outline followed by holes, without the closing point.
        name: name of its class, or empty.
        colour: RGB of its class, or None.
        measurements: finite numbers by name.
        locked: whether it cannot be moved by accident.
    """

    kind: str
    polygons: list[Polygon]
    name: str = ""
    colour: Colour | None = None
    measurements: Mapping[str, float] = {}
    locked: bool = False


def tiles(
    corners: npt.NDArray[Any], side: float, measurements: Mapping[str, npt.NDArray[Any]]
) -> Iterator[SlideObject]:
    """Yield a tile for each patch.

    Args:
        corners: (N, 2) x and y of the patches' top-left corners, in pixels of level 0.
        side: of a patch, in pixels of level 0.
        measurements: (N,) values by name.
    """
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * float(side)
    placed = np.asarray(corners, np.float64)[:, None] + square
    columns = [np.asarray(values, np.float64).tolist() for values in measurements.values()]
    rows = zip(*columns, strict=True) if columns else iter([()] * len(placed))
    for outline, row in zip(placed, rows, strict=True):
        yield SlideObject(
            "tile", [[outline]], measurements=dict(zip(measurements, row, strict=True))
        )


def write_objects(path: Path, objects: Iterable[SlideObject], origin: Corner = (0, 0)) -> None:
    """Write the objects of a slide, a line each; the file appears when it is complete.

    Args:
        path: the file, usually ``<slide_id>.geojson``.
        objects: see `SlideObject`.
        origin: (x, y) of the slide's bounds at level 0, which is subtracted from all coordinates.

    Raises:
        ValueError: a coordinate or a measurement is not finite.
    """
    with atomic_write(path) as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for number, one in enumerate(objects):
            try:
                text = json.dumps(_feature(one, origin), allow_nan=False, separators=(",", ":"))
            except (ValueError, OverflowError):
                raise ValueError(
                    f"{path}: object {number} has a coordinate or measurement that is not finite"
                ) from None
            file.write(b"\n" if number == 0 else b",\n")
            file.write(text.encode())
        file.write(b"\n]}\n")


def _feature(one: SlideObject, origin: Corner) -> dict[str, Any]:
    parts = [[_closed(ring, origin) for ring in polygon] for polygon in one.polygons]
    single = len(parts) == 1
    properties: dict[str, Any] = {"objectType": one.kind}
    if one.name:
        properties["classification"] = {"name": one.name}
        if one.colour is not None:
            properties["classification"]["color"] = list(one.colour)
    if one.locked:
        properties["isLocked"] = True
    if one.measurements:
        properties["measurements"] = {k: _short(v) for k, v in one.measurements.items()}
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": parts[0] if single else parts,
        },
        "properties": properties,
    }


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _closed(ring: npt.NDArray[Any], origin: Corner) -> list[list[float]]:
    points = np.round(ring - np.asarray(origin, np.float64), 2) + 0.0  # no negative zero
    found: list[list[float]] = [*points.tolist(), points[0].tolist()]
    return found


def read_objects(path: Path, origin: Corner = (0, 0)) -> list[SlideObject]:
    """Read the objects of a slide by the rules of the module docstring.

    Args:
        path: a FeatureCollection, a feature, or a list of features.
        origin: (x, y) of the slide's bounds at level 0, which is added to all coordinates.

    Raises:
        ValueError: the file breaks a rule; the message names file, object and rule.
    """
    remedy = "export the objects again as GeoJSON, as QuPath does"
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not GeoJSON ({error}); {remedy}") from error
    if isinstance(content, dict):
        features = content.get("features") if content.get("type") != "Feature" else [content]
    else:
        features = content
    if not isinstance(features, list):
        raise ValueError(f"{path}: not GeoJSON (it has no features); {remedy}")
    found = []
    for number, feature in enumerate(features):
        try:
            found.append(_object(feature, np.asarray(origin, np.float64)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: object {number}: {error}; {remedy}") from error
    return found


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _object(feature: Any, origin: npt.NDArray[np.float64]) -> SlideObject:
    if feature["type"] != "Feature":
        raise ValueError(f"it is a {feature['type']} and no Feature")
    if "id" in feature:
        uuid.UUID(str(feature["id"]))
    shape = feature["geometry"]
    if shape["type"] not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"its geometry is a {shape['type']} and no polygon")
    parts = [shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"]
    properties = feature.get("properties") or {}
    kind = properties.get("objectType", "annotation")
    if kind not in KINDS:
        raise ValueError(f"its objectType is {kind!r}, and not one of {', '.join(KINDS)}")
    name, colour = _class(properties.get("classification") or {})
    return SlideObject(
        kind,
        [[_ring(ring) + origin for ring in part] for part in parts],
        name,
        colour,
        _measurements(properties.get("measurements") or {}),
        bool(properties.get("isLocked", False)),
    )


def _ring(points: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    ring = np.array([point[:2] for point in points], np.float64)
    if len(ring) < 4 or ring.shape[1] != 2 or not np.isfinite(ring).all():
        raise ValueError("a ring needs at least four points of two finite numbers")
    if (ring[0] != ring[-1]).any():
        raise ValueError("a ring does not end where it begins")
    return ring[:-1]


def _class(stated: Mapping[str, Any]) -> tuple[str, Colour | None]:
    """Return name and colour of a class; derived classes have several names."""
    name = str(stated["name"]) if "name" in stated else ": ".join(stated.get("names", ()))
    colour = stated.get("color")
    if colour is None:
        return name, None
    red, green, blue = (int(value) for value in colour)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"the colour {colour} is not within 0 to 255")
    return name, (red, green, blue)


def _measurements(stated: Any) -> dict[str, float]:
    if not isinstance(stated, Mapping):
        raise ValueError("its measurements are no object of numbers")
    for name, value in stated.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ValueError(f"its measurement {name!r} is {value!r} and no number")
    return {str(name): float(value) for name, value in stated.items()}
