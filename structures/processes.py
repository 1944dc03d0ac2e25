"""The processes of a job: their number, gathering and averaging."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

State = TypeVar("State")


def gather_to_first(state: State) -> list[State]:
    """Collect one picklable value a process on the first process.

    Every process must call it.

    Returns:
        The values in rank order on the first process, an empty list on the others; with one
        process a list of one.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [state]
    first = dist.get_rank() == 0
    states: list[State | None] | None = [None] * dist.get_world_size() if first else None
    dist.gather_object(state, states, dst=0)
    return [s for s in states or [] if s is not None]


def world_size() -> int:
    """Return the number of processes that train together."""
    alone = not (dist.is_available() and dist.is_initialized())
    return 1 if alone else dist.get_world_size()


def gather_to_all(state: State) -> list[State]:
    """Return the state of each process in rank order; with one process, a list of one."""
    if world_size() == 1:
        return [state]
    states: list[State] = [state] * world_size()
    dist.all_gather_object(states, state)
    return states


def mean_over_processes(values: Tensor) -> Tensor:
    """Average numbers over the processes; all must call it with tensors of one shape.

    A loss with a global denominator (`models.ops.distributed`) averages to the loss of all samples.
    """
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()
