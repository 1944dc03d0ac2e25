"""Differentiable gathering of rows from all processes, with any number of rows per process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from structures.processes import rank_and_world_size, sum_over_processes, world_size


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes in the order of their ranks.

    If every process computes the same loss of the gathered rows, DDP's averaged gradient is the
    gradient of that loss: the backward pass sums the gradients of a row over the processes.

    Args:
        rows: (n, ...); n may differ between processes and be 0, the other axes may not. Every
            process must call it.

    Returns:
        (sum of n, ...); ``rows`` itself in a single process.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def own_rows(rows: Tensor) -> slice:
    """Return where the rows of this process are among the gathered ones; all must call it."""
    rank, world = rank_and_world_size()
    if world == 1:
        return slice(0, rows.shape[0])
    sizes = _counts(rows)
    start = sum(sizes[:rank])
    return slice(start, start + rows.shape[0])


def _counts(rows: Tensor) -> list[int]:
    rank, world = rank_and_world_size()
    counts = rows.new_zeros(world, dtype=torch.int64)
    counts[rank] = rows.shape[0]
    sizes: list[int] = sum_over_processes(counts).tolist()
    return sizes


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rank, sizes = rank_and_world_size()[0], _counts(rows)
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: rows.shape[0]] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        start = sum(sizes[:rank])
        ctx.own = slice(start, start + rows.shape[0])
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_processes(gradients[0].contiguous())[ctx.own]
