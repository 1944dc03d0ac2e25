"""Loss denominators counted over all images of a step on all processes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from structures.processes import sum_over_processes, world_size

Reduction = Literal["mean", "none"]


@dataclass(frozen=True, slots=True)
class LossTerm:
    """Loss sums and denominators of each image.

    Attributes:
        total: (B,) sum of the loss over an image's elements.
        count: (B,) number of elements that divides the sum.
    """

    total: Tensor
    count: Tensor


def global_mean_count(count: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Average a count over the processes, so that averaged gradients have the global denominator.

    DDP averages gradients over W processes. With each process dividing its sum by
    ``max(total over processes, 1) / W`` the averaged gradient is that of the sum over all
    processes divided by the total count.

    Args:
        count: any shape, non-negative; every process passes the same shape.
        dtype: data type of the result, as the loss; counts are exact up to 2^24 in float32.

    Returns:
        Tensor of the same shape, at least 1 / W. Equals ``max(count, 1)`` in one process and
        without gradients: in evaluation processes may make different numbers of calls, and a
        collective would wait forever.
    """
    total = count.detach().to(dtype)
    if not torch.is_grad_enabled():
        return total.clamp(min=1)
    return sum_over_processes(total).clamp(min=1) / world_size()


def reduce_terms(terms: Mapping[str, LossTerm], reduction: Reduction) -> dict[str, Tensor]:
    """Divide loss sums by their counts.

    Args:
        terms: sums and counts of each image.
        reduction: ``mean`` divides the sum over the batch by the count over the batch (and over
            all processes, in one collective call); ``none`` divides image by image.

    Returns:
        Scalars, or (B,) values each equal to the scalar of a batch of that image alone.
    """
    if reduction == "none":
        return {name: term.total / term.count.clamp(min=1) for name, term in terms.items()}
    dtype = functools.reduce(torch.promote_types, (term.total.dtype for term in terms.values()))
    counts = global_mean_count(torch.stack([term.count.sum() for term in terms.values()]), dtype)
    return {
        name: term.total.sum() / count
        for (name, term), count in zip(terms.items(), counts, strict=True)
    }


def sum_by_image(values: Tensor, image: Tensor, batch: int) -> Tensor:
    """Sum values (N,) by image index (N,).

    >>> sum_by_image(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 0, 1]), 3).tolist()
    [2.0, 5.0, 0.0]
    """
    return values.new_zeros(batch).index_add(0, image, values)
