"""Mistakes of a whole export, told once instead of for every annotation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.coco.shapes import are_finite
from structures.problem import Problem

_SIDES = ("height", "width")
_SMALLEST = 16  # pixels; in a smaller image all objects may lie in the first pixel


def export_problem(path: Path, data: Mapping[str, Sequence[Any]]) -> Problem | None:
    """Return the problem of a file whose annotations have no masks, or only fractions of sides.

    Args:
        path: path of the file, for the message.
        data: its content.
    """
    annotations = [a for a in data["annotations"] if isinstance(a, dict)]
    if len(annotations) < 2:  # a single one is told by its id
        return None
    if all("bbox" in a and a.get("segmentation") in (None, []) for a in annotations):
        reason = f"none of the {len(annotations)} annotations has a mask (segmentation), only boxes"
        return Problem(path, None, None, reason, "export polygons or masks of the objects")
    sides = [i.get(key) for i in data["images"] if isinstance(i, dict) for key in _SIDES]
    large = all(isinstance(side, int) and side >= _SMALLEST for side in sides)
    drawn = next(_parts(annotations), None) is not None
    if large and drawn and all(min(part) >= 0 and max(part) <= 1 for part in _parts(annotations)):
        reason = "all polygons lie between 0 and 1, so they are fractions of the sides, not pixels"
        remedy = "multiply x by the width of the image and y by its height"
        return Problem(path, None, None, reason, remedy)
    return None


def _parts(annotations: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[float]]:
    """Yield the polygons that have at least 3 points."""
    for annotation in annotations:
        mask = annotation.get("segmentation")
        for part in mask if isinstance(mask, list) else ():
            if isinstance(part, list) and len(part) >= 6 and are_finite(part):
                yield part
