"""Checks of the arguments of Deformable DETR."""

from __future__ import annotations

from typing import Literal, get_args

from models.seg.checks import check_counts, check_deviations

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
    check_counts(**counts)
    if width < 1 or heads < 1 or width % heads or width % _NORM_GROUPS:
        raise ValueError(
            f"width must be a multiple of num_heads and of the {_NORM_GROUPS} groups of the norms, "
            f"got width {width} and num_heads {heads}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    check_deviations(std)


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
