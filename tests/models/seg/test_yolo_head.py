"""Widths of the one-stage head's branches; the rest is in test_yolo_seg.py."""

import pytest
import torch

from models.seg.yolo_head import YOLOHead, anchor_points


@pytest.mark.parametrize(
    ("finest", "num_classes", "num_bins", "num_prototypes", "widths"),
    [
        # max(16, c / 4, 4 bins), max(c, min(classes, 100)), max(c / 4, prototypes)
        (8, 3, 2, 1, (16, 8, 2)),
        (8, 3, 16, 5, (64, 8, 5)),
        (96, 120, 2, 5, (24, 100, 24)),
        (160, 120, 16, 5, (64, 160, 40)),
    ],
)
def test_widths_by_hand(finest, num_classes, num_bins, num_prototypes, widths):
    with torch.device("meta"):
        head = YOLOHead((finest, 8, 8), num_classes, 8, num_bins, num_prototypes)
    for branches, width in zip((head.box, head.classes, head.coefficients), widths, strict=True):
        for branch in branches:
            assert [branch[k].conv.out_channels for k in (0, 1)] == [width, width]


def test_points_are_exact_in_float32_whatever_the_levels_are():
    like = torch.zeros(1, dtype=torch.bfloat16)  # which holds no odd number above 256
    points, strides = anchor_points([(1, 80), (1, 40), (1, 20)], like)
    assert points.dtype == strides.dtype == torch.float32
    assert points[:80, 0].tolist() == [8 * k + 4 for k in range(80)]
