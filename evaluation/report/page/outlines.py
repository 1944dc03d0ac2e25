"""Masks as outlines: polygons of few points that stay within about half a pixel of the mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.report.page.content import Point
from structures import rle

TOLERANCE = 0.5  # pixels by which a polygon may leave the traced outline


def mask_outlines(
    segmentation: Any, size: tuple[int, int], tolerance: float = TOLERANCE
) -> tuple[tuple[Point, ...], ...]:
    """Return the outer and inner outlines of a mask.

    Args:
        segmentation: polygons or run lengths of COCO.
        size: (height, width) of the image.
        tolerance: distance in pixels by which a polygon may leave the mask.

    Returns:
        Rings of half-open (x, y) pixels, with holes as rings of their own (even-odd rule); empty
        for a mask without a pixel.
    """
    runs = _runs(segmentation, size)
    if rle.area(runs) == 0:
        return ()
    x0, y0, x1, y1 = (int(v) for v in rle.bounding_box(runs, size))
    window = rle.decode(runs, size)[y0:y1, x0:x1]
    return tuple(_rings(window, x0, y0, tolerance))


def box_outline(box: Any) -> tuple[tuple[Point, ...], ...]:
    """Return the corners of a COCO box (x, y, width, height)."""
    x, y, width, height = (round(float(v), 1) for v in box)
    right, below = round(x + width, 1), round(y + height, 1)
    return (((x, y), (right, y), (right, below), (x, below)),)


def record_outlines(
    record: Mapping[str, Any], size: tuple[int, int], tolerance: float = TOLERANCE
) -> tuple[tuple[Point, ...], ...]:
    """Return the outlines of an annotation or a result: of its mask, else of its box."""
    if record.get("segmentation"):
        return mask_outlines(record["segmentation"], size, tolerance)
    return box_outline(record["bbox"])


def _runs(segmentation: Any, size: tuple[int, int]) -> Any:
    if isinstance(segmentation, list):
        from pycocotools import mask as coco_mask

        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return np.asarray(counts, dtype=np.int64)
    return rle.from_bytes(counts)


def _rings(
    window: npt.NDArray[np.bool_], left: int, top: int, tolerance: float
) -> list[tuple[Point, ...]]:
    """Trace half-way between pixels of the mask and others, so that diagonals are straight."""
    import cv2
    from contourpy import contour_generator

    padded = np.pad(window.astype(np.float32), 1)
    rings = []
    for traced in contour_generator(z=padded).lines(0.5):
        points = np.asarray(traced, dtype=np.float32)[:-1]  # the first is repeated
        few = cv2.approxPolyDP(points[:, None], tolerance, closed=True)[:, 0]
        if len(few) < 3:
            few = points
        shown = few.astype(np.float64) - 0.5 + (left, top)
        rings.append(tuple((round(x, 1), round(y, 1)) for x, y in shown.tolist()))
    return rings
