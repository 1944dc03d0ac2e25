"""Fields, points and outlines of synthetic tissue, in micrometres."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]  # (n, n), a value for each cell of the grid
Points = npt.NDArray[np.float64]  # (N, 2) x and y

CELL_UM: Final = 8.0  # side of a cell
_AT_ONCE: Final = 2048  # places that are compared with a polygon, which bounds the memory


def smooth_noise(rng: np.random.Generator, count: int, wave_um: float) -> Field:
    """Return noise of mean 0 and deviation about 1, (count, count), of a wavelength."""
    import cv2

    coarse = max(4, math.ceil(count * CELL_UM * 2 / wave_um) + 3)
    values = rng.standard_normal((coarse, coarse)).astype(np.float32)
    scale = wave_um / 2 / CELL_UM  # cells between two values
    shift = rng.uniform(0, 1, 2)
    grid = (np.arange(count, dtype=np.float32)[None] / scale + 1 + shift[:, None]).astype(
        np.float32
    )
    x, y = np.meshgrid(grid[0], grid[1])
    found: Field = cv2.remap(values, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT) * 1.4
    return found


def at(field: npt.NDArray[Any], places: Points, cell: float = CELL_UM) -> npt.NDArray[Any]:
    """Return the values of a field at places (N, 2), of the nearest cell."""
    index = np.clip((places / cell).astype(np.int64), 0, np.array(field.shape[::-1]) - 1)
    found: npt.NDArray[Any] = field[index[:, 1], index[:, 0]]
    return found


def inside(polygon: Points, places: Points) -> npt.NDArray[np.bool_]:
    """Return which places (N, 2) lie in a polygon (M, 2), by the even-odd rule."""
    found = np.zeros(len(places), bool)
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    near = np.flatnonzero(((places >= low) & (places <= high)).all(axis=1))
    x0, y0 = polygon[:, 0], polygon[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    for part in np.array_split(near, len(near) // _AT_ONCE + 1):
        x, y = places[part, 0, None], places[part, 1, None]
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            left = x < (x1 - x0) * (y - y0) / (y1 - y0) + x0
        found[part] = (crosses & left).sum(axis=1) % 2 == 1
    return found


def blob(rng: np.random.Generator, roughness: float, points: int = 48) -> Points:
    """Return the outline of a unit blob, (points, 2)."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = np.ones(points)
    for k in range(2, 7):
        radius += roughness / k * rng.normal() * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None]


def scatter(rng: np.random.Generator, density: Field, most: float) -> Points:
    """Return random places whose density (per mm2) is that of a field."""
    side = len(density) * CELL_UM
    places = rng.uniform(0, side, (rng.poisson(most * (side / 1000) ** 2), 2))
    return places[rng.uniform(0, most, len(places)) < at(density, places)]
