"""Checks of the arguments that all segmentation datamodules share."""

from __future__ import annotations

import math

LARGEST_SCALE = 16.0  # same limit as in `models.seg.inference.predict` (A256)


def check_positive(**given: float | None) -> None:
    """Raise a ValueError for a number that is given and is not positive and finite."""
    for name, value in given.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value}")


def check_ranges(scale: float, repeat_threshold: float | None, **counts: int) -> None:
    """Raise a ValueError for a scale, a share or a count that is out of range."""
    if scale > LARGEST_SCALE:
        raise ValueError(f"scale is a factor in (0, {LARGEST_SCALE:g}], got {scale:g}")
    if repeat_threshold is not None and not 0 < repeat_threshold <= 1:
        raise ValueError(f"repeat_threshold is a share in (0, 1], got {repeat_threshold}")
    for name, value in counts.items():
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
