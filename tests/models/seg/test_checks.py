"""Checks of arguments that segmentation models have in common."""

import pytest

from models.seg.checks import check_counts, check_deviations


def test_arguments_are_named():
    check_counts(layers=1, heads=8)
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
        check_counts(layers=1, heads=0)
    with pytest.raises(ValueError, match="image_std must be positive"):
        check_deviations((1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="image_std must be positive"):
        check_deviations((1.0, float("nan"), 1.0))
