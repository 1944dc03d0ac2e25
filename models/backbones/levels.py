"""Checks of the feature levels that a model asks of its backbone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def level_channels(backbone: nn.Module, strides: Sequence[int]) -> tuple[int, ...]:
    """Return the widths of a backbone's levels.

    Args:
        backbone: declares them in ``feature_channels``.
        strides: the levels that a model needs.

    Raises:
        ValueError: it declares other levels, or none.
    """
    channels = getattr(backbone, "feature_channels", None)
    if not isinstance(channels, tuple) or len(channels) != len(strides):
        *others, last = map(str, strides)
        raise ValueError(
            f"{type(backbone).__name__} does not declare the widths of its levels of strides "
            f"{', '.join(others)} and {last} in feature_channels, but {channels}; use TimmFeatures "
            f"with strides: {list(strides)}"
        )
    return channels


def check_levels(
    levels: Sequence[Tensor], size: tuple[int, int], strides: Sequence[int], backbone: nn.Module
) -> None:
    """Check the levels that a backbone made of images.

    Args:
        levels: (B, C, h, w) each.
        size: (height, width) of the images.
        strides: wanted of the levels.
        backbone: named in the message.

    Raises:
        ValueError: the levels have other sizes.
    """
    sizes = [tuple(level.shape[-2:]) for level in levels]
    wanted = [(size[0] // stride, size[1] // stride) for stride in strides]
    if sizes != wanted:
        raise ValueError(
            f"{type(backbone).__name__} must return levels of {wanted} cells for an image of "
            f"{size[0]} x {size[1]}, got {sizes}"
        )
