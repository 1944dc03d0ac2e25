"""Mistakes of a whole export, told once instead of for every annotation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.coco.categories import used_counts
from formats.coco.shapes import FRACTIONS, SMALLEST, are_finite, are_fractions
from structures.problem import Problem

_SIDES = ("height", "width")
_SHOWN = 3  # categories in a remedy


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
    large = all(isinstance(side, int) and side >= SMALLEST for side in sides)
    drawn = next(_parts(annotations), None) is not None
    if large and drawn and are_fractions([*_parts(annotations)]):
        reason = "all polygons lie between 0 and 1, so they are fractions of the sides, not pixels"
        return Problem(path, None, None, reason, FRACTIONS)
    return None


def label_problem(path: Path, data: Mapping[str, Sequence[Any]]) -> Problem | None:
    """Return the problem of a file whose annotations number the categories from 0 by themselves.

    Args:
        path: path of the file, for the message.
        data: its content.
    """
    used = used_counts(data["annotations"])
    named = {
        c["id"]: str(c.get("name"))
        for c in data["categories"]
        if isinstance(c, dict) and type(c.get("id")) is int
    }
    if 0 not in used or 0 in named or used.total() < 2:
        return None
    if min(used) < 0 or max(used) >= len(named):
        return None
    ids = sorted(named)
    pairs = ", ".join(f"{ids[n]} ({named[ids[n]]!r}) for {n}" for n in sorted(used)[:_SHOWN])
    reason = (
        f"the annotations have categories {min(used)} to {max(used)}, which are declared as "
        f"{ids[0]} to {ids[-1]}"
    )
    remedy = f"write the declared ids: {pairs}{', ...' if len(used) > _SHOWN else ''}"
    return Problem(path, None, None, reason, remedy)


def _parts(annotations: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[float]]:
    """Yield the polygons that have at least 3 points."""
    for annotation in annotations:
        mask = annotation.get("segmentation")
        for part in mask if isinstance(mask, list) else ():
            if isinstance(part, list) and len(part) >= 6 and are_finite(part):
                yield part
