"""Collection of the bag predictions of a split over batches and processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from structures import BagBatch

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BagScores:
    """Predictions of B bags, sorted by their number in the data set.

    Attributes:
        bag_ids: names of the bags.
        index: (B,) int64, number of each bag in the data set.
        labels: (B,) int64, or (B, C) for a multilabel task; float64 for times and values, see
            `BagBatch`.
        probabilities: (B,) of the positive class for a binary task, else (B, C); what else is
            predicted, see `MILOutput.predictions`.
        groups: the patient of each bag, or empty.
        witness: (B,) AUROC of the attention for witnesses against the rest, NaN for bags without
            both kinds or without known instance labels.
    """

    bag_ids: tuple[str, ...]
    index: npt.NDArray[np.int64]
    labels: npt.NDArray[Any]
    probabilities: FloatArray
    groups: tuple[str, ...] = ()
    witness: FloatArray = field(default_factory=lambda: np.zeros(0))

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(B,) bool, True if the label of the bag is known.

        An unknown class or grade is negative; of values, one has to be known.
        """
        if self.labels.dtype == np.float64:
            some: npt.NDArray[np.bool_] = ~np.isnan(self.labels).all(axis=1)
            return some
        least = self.labels.min(axis=1) if self.labels.ndim == 2 else self.labels
        known: npt.NDArray[np.bool_] = least >= 0
        return known


class BagCollector:
    """Collects one row per bag; a bag that is added twice counts once."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, Any]] = {}

    def add(self, bags: BagBatch, probabilities: Tensor, attention: Tensor | None) -> None:
        """Add a batch.

        Args:
            bags: the batch.
            probabilities: (B,) or (B, C).
            attention: (N,) or (N, K) of the batch, or None.
        """
        from evaluation.mil.scores import instance_auroc

        probs = probabilities.detach().cpu().double().numpy()
        labels, offsets = bags.labels.cpu().numpy(), bags.offsets.tolist()
        weights = None if attention is None else attention.detach().float().cpu().numpy()
        if weights is not None and weights.ndim == 2:
            weights = weights.mean(axis=1)
        truth = None if bags.instance_labels is None else bags.instance_labels.cpu().numpy()
        for b, number in enumerate(bags.index.tolist()):
            part = slice(offsets[b], offsets[b + 1])
            known = weights is not None and truth is not None
            self._rows[number] = {
                "bag_id": bags.bag_ids[b] if bags.bag_ids else str(number),
                "group": bags.groups[b] if bags.groups else None,
                "label": labels[b],
                "probability": probs[b],
                "witness": instance_auroc(weights[part], truth[part]) if known else float("nan"),  # type: ignore[index]
            }

    def state(self) -> dict[int, dict[str, Any]]:
        """Return the rows by bag number, for gathering."""
        return self._rows

    def merge(self, states: Iterable[dict[int, dict[str, Any]]]) -> None:
        """Add the rows of other processes."""
        for state in states:
            self._rows.update(state)

    def scores(self) -> BagScores:
        """Return all rows sorted by bag number."""
        numbers = sorted(self._rows)
        rows = [self._rows[n] for n in numbers]
        groups = tuple(str(r["group"]) for r in rows if r["group"] is not None)
        return BagScores(
            bag_ids=tuple(r["bag_id"] for r in rows),
            index=np.array(numbers, dtype=np.int64),
            labels=_labels([r["label"] for r in rows]),
            probabilities=np.array([r["probability"] for r in rows], dtype=np.float64),
            groups=groups if len(groups) == len(rows) else (),
            witness=np.array([r["witness"] for r in rows], dtype=np.float64),
        )


def _labels(rows: list[Any]) -> npt.NDArray[Any]:
    labels = np.array(rows)
    return labels if labels.dtype == np.float64 and len(rows) else labels.astype(np.int64)
