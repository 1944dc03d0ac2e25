"""Random choices inside a loss that only depend on a key and the image."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1


def _mix(value: int) -> int:
    """Scramble 64 bits (the finaliser of SplitMix64), so that neighbours share no pattern."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def image_generator(key: int, index: int, stream: int = 0) -> torch.Generator:
    """Return a CPU generator seeded by (key, image index, stream).

    Args:
        key: changes from step to step, for example the optimizer step.
        index: stable index of the image in its data set.
        stream: separates independent choices made for the same image.
    """
    seed = _mix(_mix(_mix(key & _MASK64) ^ (index & _MASK64)) ^ (stream & _MASK64))
    return torch.Generator().manual_seed(seed >> 1)


def choose(positions: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Choose at most ``limit`` of the positions uniformly without replacement.

    The draw happens on the host, so the choice is the same on every device.

    Args:
        positions: (P,) int64.
        limit: largest number of positions to keep.
        generator: a CPU generator; not advanced if all positions are kept.

    Returns:
        (min(P, limit),) of ``positions``, in their original order.
    """
    total = positions.shape[0]
    if total <= limit:
        return positions
    keep = torch.randperm(total, generator=generator)[:limit].sort().values
    return positions[keep.to(positions.device)]


def sample_balanced(
    labels: Tensor, number: int, positive_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose positives up to a fraction of the budget and fill the rest with negatives.

    Args:
        labels: (A,), >= 1 positive, 0 negative, < 0 ignored.
        number: total number of elements.
        positive_fraction: at most ``int(number * positive_fraction)`` positives.
        generator: a CPU generator.

    Returns:
        Positions of the chosen positives (P,) and negatives (N,), ascending.
    """
    positive = choose((labels >= 1).nonzero().flatten(), int(number * positive_fraction), generator)
    negative = choose((labels == 0).nonzero().flatten(), number - positive.shape[0], generator)
    return positive, negative
