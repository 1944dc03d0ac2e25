"""Checks that boxes, polygons and run-length masks are valid and lie in their image."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from structures.rle import from_bytes

SMALLEST = 16  # pixels; in a smaller image an object may lie in the first pixel
FRACTIONS = "multiply x by the width of the image and y by its height"  # remedy for fractions
TOLERANCE = 2.0  # pixels that a polygon or a box may reach beyond the border  # A50


def is_known(number: Any, table: Collection[Any]) -> bool:
    """Return whether an id of any type is in ``table``."""
    return isinstance(number, int | float | str) and type(number) is not bool and number in table


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number; booleans are not numbers."""
    return type(value) is not bool and are_finite([value])


def are_finite(values: Sequence[Any]) -> bool:
    """Return whether all values are finite numbers."""
    try:
        return math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def box_reason(box: Any, height: int, width: int) -> str:
    """Return the fault of a box [x, y, width, height] in an image, or nothing."""
    if not (isinstance(box, list) and len(box) == 4 and are_finite(box)):
        return f"bbox is {box!r}"
    if box[2] <= 0 or box[3] <= 0:  # A51
        return f"bbox {box} has no area"
    return _outside_reason(f"bbox {box}", box[::2], box[1::2], height, width, sized=True)


def area_reason(area: Any) -> str:
    """Return the fault of an area in square pixels, or nothing."""
    return "" if is_number(area) and area >= 0 else f"area is {area!r}"


def polygon_reason(polygons: Sequence[Any], height: int, width: int) -> str:
    """Return the fault of a list of polygons [x1, y1, x2, y2, ...], or nothing."""
    if not polygons:
        return "has no polygon"
    if len(polygons) > 2 and all(isinstance(p, list) and len(p) == 2 for p in polygons):
        return "the polygon is a list of points [x, y], not a list of polygons x1, y1, x2, y2, ..."
    for polygon in polygons:
        if reason := part_reason(polygon) or _outside_reason(
            "a polygon", polygon[::2], polygon[1::2], height, width
        ):
            return reason
    return ""


def are_fractions(polygons: Sequence[Any]) -> bool:
    """Return whether all coordinates of valid polygons lie between 0 and 1."""
    return all(min(polygon) >= 0 and max(polygon) <= 1 for polygon in polygons)


def part_reason(polygon: Any) -> str:
    """Return why a part is no list of coordinates, or nothing."""
    if not isinstance(polygon, list):
        return f"a polygon is a {type(polygon).__name__}, not a list of numbers"
    if polygon and isinstance(polygon[0], list):
        return "a polygon is a list of points [x, y], not of numbers x1, y1, x2, y2, ..."
    if len(polygon) < 6 or len(polygon) % 2:
        why = "fewer than 6 (3 points)" if len(polygon) < 6 else "which are not pairs"
        return f"a polygon has {len(polygon)} numbers, {why}"
    return "" if are_finite(polygon) else "a polygon has a coordinate that is not a finite number"


def _outside_reason(
    name: str,
    xs: Sequence[float],
    ys: Sequence[float],
    height: int,
    width: int,
    *,
    sized: bool = False,
) -> str:
    """Return a reason for coordinates beyond the border; ``sized``: the second ones are lengths."""
    left, top = (xs[0], ys[0]) if sized else (min(xs), min(ys))
    right, bottom = (sum(xs), sum(ys)) if sized else (max(xs), max(ys))
    reach = max(-left, -top, right - width, bottom - height)
    if right <= 0 or bottom <= 0 or left >= width or top >= height or reach > TOLERANCE:
        return (
            f"{name} lies outside the image: x {left:g} to {right:g}, y {top:g} to {bottom:g} "
            f"in {width} x {height} px"
        )
    return ""


def rle_reason(segmentation: Any, height: int, width: int, covered: int | None = None) -> str:
    """Return the fault of a run-length record in an image, or nothing.

    Args:
        segmentation: the record.
        height: height of the image.
        width: width of the image.
        covered: pixels that its text covers, if known (see `run_lengths.covered_pixels`).
    """
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        return "segmentation is neither polygons nor a run-length record with size and counts"
    if segmentation["size"] != [height, width]:
        return f"run-length mask of size {segmentation['size']} in an image of [{height}, {width}]"
    total, counts = height * width, segmentation["counts"]
    if isinstance(counts, list):
        if not all(type(run) is int and 0 <= run <= total for run in counts):
            return f"run lengths have a value that is not an integer from 0 to {total}"
        covered = sum(counts)
    elif not isinstance(counts, str):
        return f"run lengths are a {type(counts).__name__}, not a text or a list"
    elif covered != total:
        try:
            covered = int(from_bytes(counts).sum())
        except ValueError as error:
            return str(error)
    return "" if covered == total else f"run lengths cover {covered} of {total} pixels"
