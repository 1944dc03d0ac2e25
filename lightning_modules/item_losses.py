"""Loss terms of single images or bags, gathered from all processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from structures.processes import gather_to_all


class ItemLosses:
    """Loss terms of single images or bags; an item seen twice counts once.

    The means do not depend on batches, processes or the order of the items.
    """

    def __init__(self) -> None:
        self._terms: tuple[str, ...] = ()
        self._rows: dict[int, tuple[str, list[float]]] = {}

    def add(self, index: Tensor, names: Sequence[object], terms: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            index: (B,) indices of the items in their data set.
            names: names of the items in the data set; empty to use the indices.
            terms: (B,) by name, as ``losses(..., reduction="none")`` returns them.
        """
        self._terms = tuple(terms)
        numbers = index.tolist()
        values = torch.stack([term.detach() for term in terms.values()], dim=1).cpu().tolist()
        for number, name, row in zip(numbers, names or numbers, values, strict=True):
            self._rows[number] = (str(name), row)

    def gather(self) -> None:
        """Collect the items of all processes; every process must call it."""
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
        """Return the names of items with a NaN or infinite term, in order of their indices."""
        return [
            name
            for _, (name, row) in sorted(self._rows.items())
            if not all(math.isfinite(value) for value in row)
        ]
