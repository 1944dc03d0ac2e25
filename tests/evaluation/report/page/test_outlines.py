"""Outlines of masks stay within half a pixel, and are short."""

import cv2
import numpy as np
import pytest

from evaluation.report.page.outlines import box_outline, mask_outlines, record_outlines
from structures import rle


def coco(mask):
    runs = rle.encode(mask)
    return {"size": list(mask.shape), "counts": rle.to_bytes(runs).decode()}


def drawn(rings, size, fine=8):
    """Fill rings by the even-odd rule at a multiple of the resolution."""
    points = [np.round(np.array(ring) * fine - 0.5).astype(np.int32) for ring in rings]
    canvas = np.zeros((size[0] * fine, size[1] * fine), np.uint8)
    cv2.fillPoly(canvas, points, 1)
    return canvas.astype(bool)


def ring_mask(size=(60, 90)):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    far = np.hypot(x - 40, y - 30)
    return (far < 25) & (far > 9) | (np.abs(x - 80) < 4) & (np.abs(y - 50) < 5)


@pytest.mark.parametrize("tolerance", [0.5, 2.0])
def test_no_pixel_is_further_than_the_tolerance_from_the_outline(tolerance):
    mask, fine = ring_mask(), 8
    rings = mask_outlines(coco(mask), mask.shape, tolerance)
    assert len(rings) == 3  # two parts, and a hole
    truth = mask.repeat(fine, axis=0).repeat(fine, axis=1)
    wrong = drawn(rings, mask.shape, fine) != truth
    near = np.ones((fine * 2 + 1, fine * 2 + 1), np.uint8)
    edge = cv2.morphologyEx(truth.astype(np.uint8), cv2.MORPH_GRADIENT, near)  # a pixel each way
    if tolerance == 0.5:
        assert not (wrong & (edge == 0)).any()
        assert wrong.sum() < 0.03 * truth.sum()
    assert sum(map(len, rings)) < (80 if tolerance == 0.5 else 30)


def test_small_masks_and_masks_at_the_border():
    mask = np.zeros((5, 7), bool)
    mask[0, 0] = mask[4, 3:] = True
    rings = mask_outlines(coco(mask), mask.shape)
    corners = {tuple(np.round(np.array(ring).min(axis=0)).tolist()) for ring in rings}
    assert corners == {(0.0, 0.0), (3.0, 4.0)}
    assert len(rings) == 2
    assert mask_outlines(coco(np.zeros((5, 7), bool)), (5, 7)) == ()


def test_polygons_counts_and_boxes_are_read():
    square = [[2, 3, 12, 3, 12, 13, 2, 13]]
    rings = record_outlines({"segmentation": square, "bbox": [0, 0, 1, 1]}, (20, 30))
    assert np.round(np.array(rings[0]).max(axis=0)).tolist() == [12, 13]
    counts = {"size": [4, 4], "counts": [5, 2, 2, 2, 5]}
    assert len(mask_outlines(counts, (4, 4))) == 1
    assert record_outlines({"bbox": [1, 2, 3, 4]}, (9, 9)) == box_outline([1, 2, 3, 4])
    assert box_outline([1, 2, 3, 4]) == (((1, 2), (4, 2), (4, 6), (1, 6)),)
