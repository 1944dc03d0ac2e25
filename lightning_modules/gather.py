"""Collecting plain Python state from every process."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

State = TypeVar("State")


def gather_to_all(state: State) -> list[State]:
    """Return the state of each process in rank order; with one process, a list of one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [state]
    states: list[State | None] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return [s for s in states if s is not None]
