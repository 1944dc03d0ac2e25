"""Outlines of instances as short SVG paths."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from evaluation.report.page.content import Point

LARGE = 512  # pixels of the longer side; above it, outlines have whole pixels (A840)


def svg_path(polygons: Iterable[Iterable[Point]], width: int, height: int) -> str:
    """Write rings as the `d` of an SVG path with relative commands.

    Coordinates are rounded to a tenth of a pixel, in images of more than 512 pixels to a pixel;
    points on a straight line between their neighbours are left out.

    >>> svg_path([[(0, 0), (4, 0), (8, 0), (8, 2.5), (0, 2.5)]], 20, 20)
    'M0 0h8v2.5h-8z'
    """
    scale = 1 if max(width, height) > LARGE else 10
    rings = (_corners([(round(x * scale), round(y * scale)) for x, y in p]) for p in polygons)
    return "".join(_ring(ring, scale) for ring in rings if ring)


def _corners(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Leave out repeated points and those on a straight line, around the whole ring."""
    ring = [p for p, before in zip(points, [None, *points], strict=False) if p != before]
    while len(ring) > 1 and ring[0] == ring[-1]:
        ring.pop()
    if len(ring) < 3:
        return ring
    kept = []
    for i, (x, y) in enumerate(ring):
        (a, b), (c, d) = ring[i - 1], ring[(i + 1) % len(ring)]
        straight = (x - a) * (d - y) == (y - b) * (c - x)
        onward = (x - a) * (c - x) + (y - b) * (d - y) > 0
        if not (straight and onward):
            kept.append((x, y))
    return kept


def _ring(ring: list[tuple[int, int]], scale: int) -> str:
    parts = [f"M{_pair(*ring[0], scale)}"]
    last = ""
    for (a, b), (x, y) in pairwise(ring):
        dx, dy = x - a, y - b
        command = "h" if dy == 0 else "v" if dx == 0 else "l"
        text = _short(dx or dy, scale) if command != "l" else _pair(dx, dy, scale)
        joined = command == last == "l"
        parts.append(text if joined and text[0] == "-" else (" " if joined else command) + text)
        last = command
    return "".join(parts) + "z"


def _pair(x: int, y: int, scale: int) -> str:
    second = _short(y, scale)
    return _short(x, scale) + ("" if second[0] == "-" else " ") + second


def _short(value: int, scale: int) -> str:
    if scale == 1 or value % scale == 0:
        return str(value // scale)
    sign, size = "-" if value < 0 else "", abs(value)
    whole = size // scale
    return f"{sign}{whole or ''}.{size % scale}"
