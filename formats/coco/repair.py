"""Repair of annotations: what `bad_data: repair` mends instead of leaving out the object."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from formats.coco.clipping import clip_polygon
from formats.coco.shapes import (
    are_finite,
    area_reason,
    box_reason,
    part_reason,
    polygon_reason,
    rle_reason,
)
from formats.coco.store import encode_segmentation
from structures import rle

_DIGITS = 6  # of a recomputed box: differences of coordinates have rounding errors


class Repaired(NamedTuple):
    """A repaired annotation.

    Attributes:
        annotation: a copy of the record with the changed values.
        done: description of the changes.
    """

    annotation: dict[str, Any]
    done: str


def repair(
    annotation: Mapping[str, Any], height: int, width: int, needed: Collection[str]
) -> Repaired | None:
    """Mend the shape of a faulty annotation; the caller checks whether faults are left.

    Parts that have fewer than 3 points or cannot be read are dropped. Parts that reach farther
    beyond the border than rounding are clipped, or dropped if they cover no pixel of the image.
    The other parts stay as they are, and so do run lengths. A box or an area that is wrong, or that
    belongs to a mask that was changed, is computed from the mask.  # A310

    Args:
        annotation: a record with ``id``, ``image_id`` and ``category_id``.
        height: height of its image.
        width: width of its image.
        needed: keys that the record must have; a missing ``bbox`` or ``area`` is added.

    Returns:
        The changed record, or None if nothing can be mended or no part is left.
    """
    changed: dict[str, Any] = dict(annotation)
    done: list[str] = []
    mask = annotation.get("segmentation")
    redrawn = False
    if mask and isinstance(mask, list) and polygon_reason(mask, height, width):
        redrawn = True
        mask = _parts(mask, height, width, done)
        if not mask:
            return None
        changed["segmentation"] = mask
    found = extent(mask, annotation.get("bbox"), height, width)
    if found is None:
        return None
    has_box, has_area = "bbox" in changed, "area" in changed
    if (redrawn or box_reason(changed["bbox"], height, width)) if has_box else "bbox" in needed:
        changed["bbox"] = found[0]
        done.append("computed the box")
    if (redrawn or area_reason(changed["area"])) if has_area else "area" in needed:
        changed["area"] = found[1]
        done.append("computed the area")
    return Repaired(changed, ", ".join(done)) if done else None


def _parts(parts: list[Any], height: int, width: int, done: list[str]) -> list[list[float]]:
    """Return the parts that are left, and append what was done."""
    kept = [_part(part, height, width) for part in parts]
    dropped = kept.count(None)
    clipped = sum(new not in (None, old) for new, old in zip(kept, parts, strict=True))
    of = f"of {len(parts)} parts" if len(parts) > 1 else "part"
    done += [f"dropped {dropped} {of}"] if dropped else []
    done += [f"clipped {clipped} {of}"] if clipped else []
    return [part for part in kept if part is not None]


def _part(part: Any, height: int, width: int) -> list[float] | None:
    if not polygon_reason([part], height, width):
        sound: list[float] = part
        return sound
    return None if part_reason(part) else clip_polygon(part, height, width)


def extent(mask: Any, box: Any, height: int, width: int) -> tuple[list[float], float] | None:
    """Return box and area of a valid mask, or of a box without a mask; None without area."""
    if mask in (None, []):
        if not (isinstance(box, list) and len(box) == 4 and are_finite(box) and min(box[2:]) > 0):
            return None
        found = _inside([box[0], box[0] + box[2]], [box[1], box[1] + box[3]], height, width)
        return None if found is None else (found, found[2] * found[3])
    polygons = isinstance(mask, list)
    if (polygon_reason if polygons else rle_reason)(mask, height, width):
        return None
    runs = rle.from_bytes(encode_segmentation(mask, height, width))
    if polygons:
        points = np.concatenate([np.reshape(part, (-1, 2)) for part in mask])
        found = _inside(points[:, 0].tolist(), points[:, 1].tolist(), height, width)
    else:
        left, top, right, bottom = rle.bounding_box(runs, (height, width))
        found = _inside([left, right], [top, bottom], height, width)
    return None if found is None else (found, float(rle.area(runs)))


def _inside(xs: list[float], ys: list[float], height: int, width: int) -> list[float] | None:
    """Return the box [x, y, width, height] of coordinates inside an image; None without area."""
    left, right = max(0.0, min(xs)), min(float(width), max(xs))
    top, bottom = max(0.0, min(ys)), min(float(height), max(ys))
    if right <= left or bottom <= top:
        return None
    return [round(value, _DIGITS) for value in (left, top, right - left, bottom - top)]
