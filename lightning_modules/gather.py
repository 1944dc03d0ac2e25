"""Collecting what the processes of a job found, so that all of them know the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

State = TypeVar("State")


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


class ItemLosses:
    """Loss terms of single pictures or bags; one seen twice counts once.

    The means do not depend on batches, on processes or on the order of the items.
    """

    def __init__(self) -> None:
        self._terms: tuple[str, ...] = ()
        self._rows: dict[int, tuple[str, list[float]]] = {}

    def add(self, index: Tensor, names: Sequence[object], terms: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            index: (B,) numbers of the items in their data set.
            names: what the data set calls them; empty to use the numbers.
            terms: (B,) by name, as ``losses(..., reduction="none")`` returns them.
        """
        self._terms = tuple(terms)
        numbers = index.tolist()
        values = torch.stack([term.detach() for term in terms.values()], dim=1).cpu().tolist()
        for number, name, row in zip(numbers, names or numbers, values, strict=True):
            self._rows[number] = (str(name), row)

    def gather(self) -> None:
        """Take over the items of all processes; every process must call it."""
        for terms, rows in gather_to_all((self._terms, self._rows)):
            self._terms = self._terms or terms
            self._rows.update(rows)

    def means(self) -> dict[str, float]:
        """Return the mean of each term over the items, correctly rounded."""
        columns = zip(*(row for _, row in self._rows.values()), strict=True)
        return {
            term: math.fsum(column) / len(self._rows)
            for term, column in zip(self._terms, columns, strict=True)
        }

    def not_finite(self) -> list[str]:
        """Return the names of items with a term that is NaN or infinite, by their number."""
        return [
            name
            for _, (name, row) in sorted(self._rows.items())
            if not all(math.isfinite(value) for value in row)
        ]
