"""Checks of arguments that segmentation models have in common."""

from __future__ import annotations

from collections.abc import Sequence


def check_counts(**counts: int) -> None:
    """Check numbers by the names of their arguments.

    Raises:
        ValueError: one is below 1.
    """
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_deviations(image_std: Sequence[float]) -> None:
    """Check the deviations by which channels are divided.

    Raises:
        ValueError: one is not positive.
    """
    if not all(value > 0 for value in image_std):
        raise ValueError(f"image_std must be positive, got {image_std}")
