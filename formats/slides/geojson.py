"""Outlines on slides as GeoJSON (RFC 7946), in pixels of level 0."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Polygon = list[Points]  # rings, each (n, 2) of (x, y): the outline, then holes


def read_polygons(path: Path) -> list[Polygon]:
    """Return the polygons of a file: a feature collection, a feature, a geometry or a list of them.

    Raises:
        ValueError: the file is no GeoJSON, or a geometry is neither Polygon nor MultiPolygon.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return polygons_of(content)
    except (ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: not GeoJSON of polygons ({error}); export the outlines again, as QuPath does"
        ) from error


def polygons_of(content: Any) -> list[Polygon]:
    """Return the polygons of GeoJSON that was read; errors as `read_polygons` catches them."""
    if isinstance(content, list):
        return [polygon for one in content for polygon in polygons_of(one)]
    kind = content["type"]
    if kind == "FeatureCollection":
        return polygons_of(content["features"])
    if kind == "Feature":
        return polygons_of(content["geometry"])
    if kind == "GeometryCollection":
        return polygons_of(content["geometries"])
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"a geometry is a {kind}")
    parts = [content["coordinates"]] if kind == "Polygon" else content["coordinates"]
    return [[_ring(ring) for ring in part] for part in parts]


def _ring(points: Any) -> Points:
    ring = np.asarray(points, dtype=np.float64)
    if ring.ndim != 2 or len(ring) < 3 or ring.shape[1] < 2 or not np.isfinite(ring).all():
        raise ValueError("a ring needs at least three points of two finite numbers")
    return ring[:, :2]


def inside(polygons: Sequence[Polygon], points: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return whether points lie in any polygon and not in its holes.

    A ray to the right crosses the rings of a polygon an odd number of times.

    Args:
        polygons: see `read_polygons`.
        points: (N, 2) of (x, y).

    Returns:
        (N,).
    """
    found = np.zeros(len(points), dtype=np.bool_)
    for polygon in polygons:
        crossings = np.zeros(len(points), dtype=np.int64)
        for ring in polygon:
            crossings += _crossings(ring, np.asarray(points, dtype=np.float64))
        found |= crossings % 2 == 1
    return found


def _crossings(ring: Points, points: Points) -> npt.NDArray[np.int64]:
    """Return (N,) how many edges the ray from each point to the right crosses."""
    (x, y), (after_x, after_y) = ring.T, np.roll(ring, -1, axis=0).T
    row = points[:, 1, None]
    spans = (y > row) != (after_y > row)  # one end above, one below: horizontal edges count never
    rise = np.where(after_y == y, 1.0, after_y - y)
    crosses = spans & (points[:, 0, None] < x + (row - y) * (after_x - x) / rise)
    return np.asarray(crosses.sum(axis=1), dtype=np.int64)
