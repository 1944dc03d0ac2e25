"""Masks as rings of points, and back, without loss."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from formats.slides.geojson import Polygon

Vertex = tuple[int, int]  # column and row of a corner of cells


def mask_polygons(mask: npt.NDArray[np.bool_]) -> list[Polygon]:
    """Return each piece of a mask that is joined along edges, in pixels of the mask.

    Args:
        mask: (h, w).

    Returns:
        Polygons along the edges of pixels: pixel (column, row) covers the unit square from there.
    """
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        corner = np.array([box[1].start, box[0].start], np.float64)
        found.append([np.array(ring) + corner for ring in mask_rings(labels[box] == number)])
    return found


def fill_polygons(polygons: Iterable[Polygon], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which pixels have their centre in any polygon and not in its holes.

    Args:
        polygons: in pixels of the mask.
        size: (h, w) of the mask.
    """
    height, width = size
    found = np.zeros(size, np.bool_)
    for polygon in polygons:
        # A row is inside after an odd number of crossings of its centre line.
        crossings = np.zeros((height, width + 1), np.int32)
        for ring in polygon:
            (x, y), (after_x, after_y) = ring.T, np.roll(ring, -1, axis=0).T
            first, last = (
                np.clip(np.ceil(v - 0.5), 0, height).astype(np.int64)
                for v in (np.minimum(y, after_y), np.maximum(y, after_y))
            )
            edges = np.repeat(np.arange(len(ring)), last - first)
            starts = np.cumsum(last - first) - (last - first)
            rows = first[edges] + np.arange(len(edges)) - starts[edges]
            share = (rows + 0.5 - y[edges]) / (after_y - y)[edges]
            at = x[edges] + share * (after_x - x)[edges]
            columns = np.clip(np.ceil(at - 0.5), 0, width).astype(np.int64)
            np.add.at(crossings, (rows, columns), 1)
        found |= crossings[:, :width].cumsum(axis=1) % 2 == 1
    return found


def mask_rings(mask: npt.NDArray[np.bool_]) -> list[list[Vertex]]:
    """Return the border of a piece of cells joined along edges: the outline, then the holes.

    Walks with the cells to the right. Where two borders meet in a corner it turns left, so that
    holes which touch a border or each other in a corner remain rings of their own.

    Args:
        mask: (h, w), True for the cells of one piece.

    Returns:
        Corners (column, row) at which the border turns, not closed; the outline is clockwise on the
        screen, holes are not.
    """
    ways: dict[Vertex, list[Vertex]] = {}
    grid = np.pad(mask, 1)
    inside = grid[1:-1, 1:-1]
    sides = (
        (grid[:-2, 1:-1], (0, 0), (1, 0)),  # above: to the right
        (grid[1:-1, 2:], (1, 0), (1, 1)),  # right: down
        (grid[2:, 1:-1], (1, 1), (0, 1)),  # below: to the left
        (grid[1:-1, :-2], (0, 1), (0, 0)),  # left: up
    )
    for beyond, begin, end in sides:
        for row, column in np.argwhere(inside & ~beyond).tolist():
            start = (column + begin[0], row + begin[1])
            ways.setdefault(start, []).append((column + end[0], row + end[1]))
    rings = []
    while ways:
        rings.append(_walk(ways, min(ways)))
    outline = max(range(len(rings)), key=lambda n: _area(rings[n]))
    return [rings[outline], *rings[:outline], *rings[outline + 1 :]]


def _walk(ways: dict[Vertex, list[Vertex]], start: Vertex) -> list[Vertex]:
    """Follow a border from a corner until it closes, and remove it; keep only where it turns."""
    here, step, ring = start, (0, 0), []
    while True:
        options = ways[here]
        left = (here[0] + step[1], here[1] - step[0])  # y points down
        after = left if len(options) > 1 and left in options else options[0]
        options.remove(after)
        if not options:
            del ways[here]
        turned = (after[0] - here[0], after[1] - here[1])
        if turned != step:
            ring.append(here)
        here, step = after, turned
        if here == start:
            return ring


def _area(ring: list[Vertex]) -> float:
    """Return the area of a ring that runs clockwise on the screen, negative for a hole."""
    (x, y) = np.array(ring, np.float64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
