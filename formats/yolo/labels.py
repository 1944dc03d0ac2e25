"""Reading and writing YOLO segmentation labels: ``class x1 y1 x2 y2 ...``, as fractions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from formats.coco.clipping import clip_polygon

TOLERANCE = 1e-3  # A64: how far rounding may have moved a coordinate beyond 0 and 1
_DIGITS_WRITTEN = 10
_DIGITS_READ = 6
_SHOWN = 10
UNDECLARED = "is not declared"  # end of the reason for an unknown class
_OUTSIDE = "the coordinate"  # beginning of the reason for coordinates beyond 0 and 1


class LabelLine(NamedTuple):
    """One object of a label file.

    Attributes:
        number: number of the line in its file, from 1.
        category: class number.
        polygon: x1, y1, x2, y2, ... in pixels.
    """

    number: int
    category: int
    polygon: list[float]

    def box(self) -> list[float]:
        """Return x, y, width, height of the polygon in pixels."""
        x, y = self.polygon[::2], self.polygon[1::2]
        sides = (max(x) - min(x), max(y) - min(y))
        return [min(x), min(y), *(round(side, _DIGITS_READ) for side in sides)]


class LabelFault(NamedTuple):
    """The fault of a line, or of the whole file if ``number`` is None.

    Attributes:
        number: number of the line in its file, from 1.
        reason: description of the fault.
        remedy: what the user can do.
        mended: the line after clipping, or None if that does not help.
    """

    number: int | None
    reason: str
    remedy: str
    mended: LabelLine | None = None


def label_path(image: Path) -> Path:
    """Return the path of the label file of an image.

    The last folder named ``images`` becomes ``labels``; without one, labels are next to the images.
    """
    parts = list(image.parts)
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            parts[at] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read_labels(
    file: Path, classes: Collection[int], size: tuple[int, int], boxes_as_masks: bool = False
) -> tuple[list[LabelLine], list[LabelFault]]:
    """Read a label file; a missing or empty file belongs to an image without objects.

    Args:
        file: the label file.
        classes: the class numbers that exist.
        size: (height, width) of the image in pixels.
        boxes_as_masks: read lines of detection sets (``class cx cy w h``) as rectangles.

    Returns:
        The valid lines and the faults of the others.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return [], []
    except (OSError, UnicodeDecodeError) as error:
        return [], [LabelFault(None, f"cannot be read ({error})", "write it again as plain text")]
    return parse_labels(text, classes, size, boxes_as_masks)


def parse_labels(
    text: str, classes: Collection[int], size: tuple[int, int], boxes_as_masks: bool = False
) -> tuple[list[LabelLine], list[LabelFault]]:
    """Parse the text of a label file; see ``read_labels``."""
    lines: list[LabelLine] = []
    faults: list[LabelFault] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        numbers = _numbers(words)
        fault = _fault(words, numbers, classes, boxes_as_masks)
        fractions = _rectangle(numbers[1:]) if len(numbers) == 5 else numbers[1:]
        if fault is not None:
            outside = fault[0].startswith(_OUTSIDE)
            polygon = _clipped(fractions, size) if outside else None
            mended = None if polygon is None else LabelLine(number, int(numbers[0]), polygon)
            faults.append(LabelFault(number, *fault, mended))
            continue
        found = LabelLine(number, int(numbers[0]), _to_pixels(fractions, size))
        if min(found.box()[2:]) > 0:
            lines.append(found)
        else:
            reason = "the points lie on one straight line or on the border"
            faults.append(LabelFault(number, reason, "redraw or remove the line"))
    return lines, faults


def _numbers(words: Sequence[str]) -> list[float]:
    """Return the numbers of a line up to the first word that is not a finite number."""
    try:
        numbers = [float(word) for word in words]
        if math.isfinite(sum(numbers)):
            return numbers
    except ValueError:
        pass
    return list(itertools.takewhile(math.isfinite, map(_number, words)))


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _fault(
    words: Sequence[str], numbers: Sequence[float], classes: Collection[int], boxes_as_masks: bool
) -> tuple[str, str] | None:
    """Return reason and remedy for a line that cannot be used, else None."""
    if len(numbers) < len(words):
        reason = f"{words[len(numbers)][:30]!r} is not a finite number"
        return reason, "write numbers separated by spaces"
    category, *values = numbers
    if category not in classes:
        known = ", ".join(map(str, sorted(classes)[:_SHOWN]))
        more = ", ..." if len(classes) > _SHOWN else ""
        remedy = f"declare it under names; known are {known}{more}"
        return f"class {words[0]} {UNDECLARED}", remedy
    return _box_fault(values, boxes_as_masks) if len(values) == 4 else _polygon_fault(values)


def _polygon_fault(values: Sequence[float]) -> tuple[str, str] | None:
    if len(values) % 2:
        return f"{len(values)} coordinates, which are not pairs", "redraw or remove the line"
    if len(values) < 6:
        reason = f"{len(values)} coordinates, but a polygon needs at least 3 points"
        return reason, "redraw or remove the line"
    return _range_fault(values)


def _box_fault(values: Sequence[float], boxes_as_masks: bool) -> tuple[str, str] | None:
    if not boxes_as_masks:
        reason = "4 coordinates are a box (or 2 points), but a mask is needed"
        return reason, "export polygons, or set boxes_as_masks: true to use boxes as masks"
    if min(values[2:]) <= 0:
        return f"the box is {values[2]:g} wide and {values[3]:g} high", "redraw or remove the line"
    return _range_fault(_rectangle(values))


def _range_fault(values: Sequence[float]) -> tuple[str, str] | None:
    low, high = min(values), max(values)
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return None
    worst = high if high - 1 > -low else low
    reason = f"{_OUTSIDE} {worst:g} is outside 0 to 1"
    return reason, "divide x by the image's width and y by its height, and clip at its border"


def _rectangle(values: Sequence[float]) -> list[float]:
    """Turn centre, width and height into the corners of a polygon."""
    x, y, width, height = values
    left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    return [left, top, right, top, right, bottom, left, bottom]


def _to_pixels(fractions: Sequence[float], size: tuple[int, int]) -> list[float]:
    """Return pixel coordinates, clipped at the border and rounded to 1e-6.

    Rounding restores coordinates of few digits exactly. Rasterisation has steps at multiples of
    0.1 px, where an error of 1e-13 would move a border (A63).
    """
    height, width = size
    points = np.clip(np.array(fractions).reshape(-1, 2), 0, 1) * (width, height)
    polygon: list[float] = np.round(points, _DIGITS_READ).reshape(-1).tolist()
    return polygon


def _clipped(fractions: Sequence[float], size: tuple[int, int]) -> list[float] | None:
    """Return the part of a polygon inside the image, in pixels; None if nothing can be kept.

    Coordinates that are more than the length of a side away are no fractions (A314).
    """
    if min(fractions) < -1 or max(fractions) > 2:
        return None
    height, width = size
    points = np.array(fractions).reshape(-1, 2) * (width, height)
    polygon = clip_polygon(points.reshape(-1).tolist(), height, width)
    return None if polygon is None else [round(value, _DIGITS_READ) for value in polygon]


def format_line(category: int, polygon: Sequence[float], size: tuple[int, int]) -> str:
    """Return the line of one object; points beyond the border of the image are moved onto it.

    Args:
        category: class number.
        polygon: x1, y1, x2, y2, ... in pixels.
        size: (height, width) of the image.
    """
    height, width = size
    sides = (width, height)
    fractions = (min(max(value / sides[k % 2], 0.0), 1.0) for k, value in enumerate(polygon))
    words = (f"{value:.{_DIGITS_WRITTEN}f}".rstrip("0").rstrip(".") for value in fractions)
    return " ".join([str(category), *words])
