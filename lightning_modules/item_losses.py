"""Loss terms of single images or bags, and of a whole split, gathered from all processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.losses.bag_loss import cox_bag_loss, reduce_bag_loss
from models.losses.survival import Ties
from structures.processes import gather_to_all


class ItemLosses:
    """Loss terms of single images or bags; an item seen twice counts once.

    The means do not depend on batches, processes or the order of the items.
    """

    def __init__(self) -> None:
        self._terms: tuple[str, ...] = ()
        self._rows: dict[int, tuple[str, list[float | None]]] = {}

    def add(
        self,
        index: Tensor,
        names: Sequence[object],
        terms: Mapping[str, Tensor],
        left_out: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            index: (B,) indices of the items in their data set.
            names: names of the items in the data set; empty to use the indices.
            terms: (B,) by name, as ``losses(..., reduction="none")`` returns them.
            left_out: (B,) bool by name of a term, True for items that its mean leaves out, such as
                bags without a known target.
        """
        self._terms = tuple(terms)
        numbers = index.tolist()
        values = torch.stack([term.detach() for term in terms.values()], dim=1).cpu().tolist()
        without = {name: out.tolist() for name, out in (left_out or {}).items()}
        for item, (number, name) in enumerate(zip(numbers, names or numbers, strict=True)):
            row = [
                None if term in without and without[term][item] else value
                for term, value in zip(self._terms, values[item], strict=True)
            ]
            self._rows[number] = (str(name), row)

    def gather(self) -> None:
        """Collect the items of all processes; every process must call it."""
        for terms, rows in gather_to_all((self._terms, self._rows)):
            self._terms = self._terms or terms
            self._rows.update(rows)

    def means(self) -> dict[str, float]:
        """Return the mean of each term over its items, correctly rounded; 0 without any."""
        columns = zip(*(row for _, row in self._rows.values()), strict=True)
        means = {}
        for term, column in zip(self._terms, columns, strict=True):
            counted = [value for value in column if value is not None]
            means[term] = math.fsum(counted) / max(len(counted), 1)
        return means

    def not_finite(self) -> list[str]:
        """Return the names of items with a NaN or infinite term, in order of their indices."""
        return [
            name
            for _, (name, row) in sorted(self._rows.items())
            if not all(value is None or math.isfinite(value) for value in row)
        ]


class SplitRisks:
    """Log-risks of all bags of a split, whose Cox loss has one risk set for each prediction.

    A bag that is added twice counts once. The losses do not depend on batches or processes.
    """

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, tuple[Tensor, Tensor | None]]] = {}
        self._labels: dict[int, Tensor] = {}

    def add(
        self,
        index: Tensor,
        labels: Tensor,
        predictions: Mapping[str, tuple[Tensor, Tensor | None]],
    ) -> None:
        """Add a batch.

        Args:
            index: (B,) numbers of the bags.
            labels: (B, 2) times and events.
            predictions: (B, 1) or (B, K, 1) log-risks and their masks (B, K) by loss term, see
                `MILOutput.supervised`.
        """
        host = {
            term: (logits.detach().cpu().double(), None if here is None else here.cpu())
            for term, (logits, here) in predictions.items()
        }
        labels = labels.cpu()
        for position, number in enumerate(index.tolist()):
            self._labels[number] = labels[position]
            self._rows[number] = {
                term: (logits[position], None if here is None else here[position])
                for term, (logits, here) in host.items()
            }

    def gather(self) -> None:
        """Collect the bags of all processes; every process must call it."""
        for rows, labels in gather_to_all((self._rows, self._labels)):
            self._rows.update(rows)
            self._labels.update(labels)

    def means(self, ties: Ties = "efron") -> dict[str, float]:
        """Return the loss of each term over the whole split; 0 without an event.

        Args:
            ties: of the term ``bag``.
        """
        numbers = sorted(self._rows)
        if not numbers:
            return {}
        labels, found = torch.stack([self._labels[n] for n in numbers]), {}
        for term in self._rows[numbers[0]]:
            logits = torch.stack([self._rows[n][term][0] for n in numbers])
            masks = [self._rows[n][term][1] for n in numbers]
            present = None if masks[0] is None else torch.stack([m for m in masks if m is not None])
            with torch.no_grad():
                shares = cox_bag_loss(logits, labels, ties if term == "bag" else "efron", present)
                found[term] = float(reduce_bag_loss(shares, labels, "cox", "mean"))
        return found
