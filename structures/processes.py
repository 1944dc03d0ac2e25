"""Communication between the processes of a job: rank, gathering, sums and means."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

State = TypeVar("State")


def gather_to_first(state: State) -> list[State]:
    """Collect one picklable value from each process on the first process.

    Every process must call it.

    Returns:
        The values in rank order on the first process, an empty list on the others. With one
        process, a list of one value.
    """
    rank, world = rank_and_world_size()
    if world == 1:
        return [state]
    states: list[State | None] | None = [None] * world if rank == 0 else None
    dist.gather_object(state, states, dst=0)
    return [s for s in states or [] if s is not None]


def rank_and_world_size() -> tuple[int, int]:
    """Return the rank of this process, from 0, and the number of processes."""
    alone = not (dist.is_available() and dist.is_initialized())
    return (0, 1) if alone else (dist.get_rank(), dist.get_world_size())


def world_size() -> int:
    """Return the number of processes that train together."""
    return rank_and_world_size()[1]


def gather_to_all(state: State) -> list[State]:
    """Return the states of all processes in rank order; with one process, a list of one state."""
    if world_size() == 1:
        return [state]
    states: list[State] = [state] * world_size()
    dist.all_gather_object(states, state)
    return states


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum a tensor over the processes; all must call it with tensors of the same shape.

    Returns:
        A new tensor without a gradient; with one process, ``values`` itself.
    """
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_processes(values: Tensor) -> Tensor:
    """Average a tensor over the processes; all must call it with tensors of the same shape.

    A loss with a global denominator (`models.ops.distributed`) averages to the loss of all samples.
    """
    world = world_size()
    return values if world == 1 else sum_over_processes(values) / world
