"""Checks of the arguments and the backbone of Deformable DETR."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

Assignment = Literal["hungarian", "sim_ota"]
STRIDES = (8, 16, 32)  # of the backbone's levels
_NORM_GROUPS = 32


def check_arguments(
    counts: dict[str, int], width: int, heads: int, dropout: float, std: tuple[float, ...]
) -> None:
    """Check the numbers of a network.

    Args:
        counts: numbers that are at least 1, by name.
        width: channels of encoder and decoder.
        heads: attention heads.
        dropout: rate.
        std: deviations of the channels.

    Raises:
        ValueError: one is out of its range.
    """
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if width < 1 or heads < 1 or width % heads or width % _NORM_GROUPS:
        raise ValueError(
            f"width must be a multiple of num_heads and of the {_NORM_GROUPS} groups of the norms, "
            f"got width {width} and num_heads {heads}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    if min(std) <= 0:
        raise ValueError(f"image_std must be positive, got {std}")


def check_choices(box_refine: bool, two_stage: bool, assignment: str) -> None:
    """Check that the choices exist and fit.

    Raises:
        ValueError: they do not.
    """
    if two_stage and not box_refine:
        raise ValueError("two_stage refines the boxes of proposals; it needs box_refine: true")
    if assignment not in get_args(Assignment):
        raise ValueError(
            f"assignment must be one of {', '.join(get_args(Assignment))}, got {assignment!r}"
        )


def feature_channels(backbone: nn.Module) -> tuple[int, ...]:
    """Return the widths of the three levels of a backbone.

    Raises:
        ValueError: it does not declare three.
    """
    channels = getattr(backbone, "feature_channels", None)
    if not isinstance(channels, tuple) or len(channels) != len(STRIDES):
        raise ValueError(
            f"{type(backbone).__name__} does not declare the widths of its levels of strides 8, 16 "
            "and 32 in feature_channels; use TimmFeatures"
        )
    return channels


def check_levels(levels: list[Tensor], images: Tensor, backbone: nn.Module) -> None:
    """Check the levels that a backbone made of images.

    Raises:
        ValueError: they are not those of strides 8, 16 and 32.
    """
    height, width = images.shape[-2:]
    sizes = [tuple(level.shape[-2:]) for level in levels]
    wanted = [(height // stride, width // stride) for stride in STRIDES]
    if sizes != wanted:
        raise ValueError(
            f"{type(backbone).__name__} must return levels of {wanted} cells for an image of "
            f"{height} x {width}, got {sizes}"
        )
