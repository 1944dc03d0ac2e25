"""Scores of predicted classes in the form of the scorers of times, values and grades."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.mil.collector import BagScores
from evaluation.mil.metrics import FloatArray, IntArray, all_metrics, bag_table
from evaluation.statistics.sample_size import class_members, too_few_bags
from structures import MILTask


class ClassScorer:
    """Scores of binary, multiclass and multilabel predictions; see `evaluation.targets.scores`.

    Args:
        labels: see `evaluation.mil.scores.evaluate_bags`.
        probabilities: see `evaluate_bags`.
        task: task of the predictions.
        threshold: see `evaluate_bags`; fixed over subgroups and draws.
        classes: name of each class, or empty for their numbers.

    Raises:
        ValueError: see `evaluation.mil.metrics.bag_table`.
    """

    def __init__(
        self,
        labels: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        task: MILTask,
        threshold: float = 0.5,
        classes: Sequence[str] = (),
    ) -> None:
        self.table = bag_table(labels, probabilities, task)
        self.threshold = threshold
        self.classes = tuple(classes)

    @property
    def count(self) -> int:
        """Number of bags."""
        return len(self.table.labels)

    def rows(self, chosen: npt.NDArray[np.generic]) -> ClassScorer:
        """Return the scorer of some bags, given by number or as (n,) bool."""
        labels, probabilities, task = self.table
        return ClassScorer(
            labels[chosen], probabilities[chosen], task, self.threshold, self.classes
        )

    def metrics(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Return (R,) values of each metric."""
        return all_metrics(self.table, self.threshold, weights)

    def strata(self, unit: IntArray) -> IntArray:
        """Return the number of each unit's set of classes, in the order of their first units.

        They are those of `evaluation.statistics.bootstrap`; a multilabel task has one stratum.
        """
        if self.table.task == "multilabel":
            return np.zeros(int(unit.max()) + 1, dtype=np.int64)
        held: dict[int, set[int]] = {}
        for number, label in zip(unit.tolist(), self.table.labels.tolist(), strict=True):
            held.setdefault(number, set()).add(label)
        kinds: dict[frozenset[int], int] = {}
        found = [kinds.setdefault(frozenset(own), len(kinds)) for _, own in sorted(held.items())]
        return np.array(found, dtype=np.int64)

    def too_few(self, unit: IntArray, patients: bool = False) -> str:
        """Return why intervals are withheld, or an empty text: a class of few bags."""
        names = tuple(map(str, unit.tolist()))
        scores = BagScores(
            bag_ids=names,
            index=np.arange(self.count),
            labels=self.table.labels,
            probabilities=self.table.probabilities,
        )
        return too_few_bags(scores, self.table.task, self.classes, names if patients else ())

    def undefined(self, metric: str) -> str:
        """Return why a metric has no value."""
        if self.table.task == "multilabel":
            return "needs bags with and without a class"
        if metric == "bag_kappa":
            return "all true and predicted classes are the same"
        return "needs bags of more than one class"

    def details(self) -> dict[str, Any]:
        """Return ``classes``: the number of bags of each class."""
        labels, probabilities, task = self.table
        count = 2 if task == "binary" else probabilities.shape[1]
        return {"classes": class_members(labels, task, count).sum(axis=0).tolist()}
