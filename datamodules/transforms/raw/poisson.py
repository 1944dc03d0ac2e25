"""Poisson numbers by their quantile function, which takes one uniform number each."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = 6.0  # below this rate the probabilities are summed, above it they are approximated
_LARGEST = 24  # P(N > 24) is below 2^-24 for rates up to _SMALL


def poisson_quantile(rate: Tensor, uniform: Tensor) -> Tensor:
    """Return the smallest n with P(N <= n) >= ``uniform`` for N of a Poisson distribution.

    Exact up to the rounding of float32 for rates below 6. Above, the expansion of Giles,
    "Algorithm 955: approximation of the inverse Poisson cumulative distribution function",
    TOMS 2016, sec. 2.2, is rounded down: the distribution of the result differs from Poisson's in
    less than 5e-4 of its mass at 6 and less than 1e-4 from 15 on (A490).

    Args:
        rate: not negative, any shape.
        uniform: in (0, 1), of the same shape.

    Returns:
        Whole numbers as floats, of the same shape.
    """
    small = (rate < _SMALL).view(-1).nonzero()[:, 0]
    high = rate.clamp_min(_SMALL)
    root = high.sqrt()
    z = normal_quantile(uniform)
    square = z * z
    counts = (square * (1 / 270)).add_(7 / 810).mul_(square).sub_(8 / 405).div_(high)
    counts -= (square * (1 / 72)).add_(1 / 36).mul_(z).div_(root)
    counts += square.div_(6).add_(1 / 3)
    counts += z.mul_(root)
    counts = counts.add_(high).floor_().clamp_min_(0)
    few = _summed(rate.view(-1)[small], uniform.view(-1)[small])
    counts.view(-1).index_copy_(0, small, few)
    return counts


def _summed(rate: Tensor, uniform: Tensor) -> Tensor:
    probability = torch.exp(-rate)
    below = probability.clone()  # P(N <= n)
    counts, above = torch.zeros_like(rate), torch.empty_like(rate)
    for n in range(1, _LARGEST + 1):
        counts += torch.gt(uniform, below, out=above)
        below += probability.mul_(rate).div_(n)
    return counts


def normal_quantile(uniform: Tensor) -> Tensor:
    """Return the quantiles of a standard normal distribution, for numbers in (0, 1)."""
    return torch.erfinv(uniform * 2 - 1).mul_(2**0.5)
