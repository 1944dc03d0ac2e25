"""Scores of the folds of a cross-validation whose targets are times, values or grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import nan

import numpy as np

from evaluation.targets.bags import TargetPredictions
from evaluation.targets.bootstrap import units
from evaluation.targets.censoring import IntArray
from evaluation.targets.scores import METRICS, score
from evaluation.targets.survival_scores import default_times
from evaluation.targets.tables import SurvivalReference
from structures.tasks import TIME_TASKS


class FoldScorer:
    """Scores each fold by itself: risks of different Cox models have different origins.

    Censoring and ``tau`` of a fold come from the other bags of its repeat, which are its training
    bags, the times from the events of all bags.  # A696

    Args:
        found: the test bags of every fold, in each repeat again.
        times: see `SurvivalScorer`; None for the deciles of the event times of all bags.
        tau: see `SurvivalScorer`.

    Raises:
        ValueError: ``times`` or ``tau`` is given for values or grades.
    """

    def __init__(
        self,
        found: TargetPredictions,
        times: Sequence[float] | None = None,
        tau: float | None = None,
    ) -> None:
        if found.task not in TIME_TASKS and (times is not None or tau is not None):
            raise ValueError("--times and --tau have an effect on times alone")
        _, first = np.unique(np.asarray(found.bag_ids), return_index=True)
        self.found, self.times, self.tau = found, times, tau
        self._once = found.rows(np.sort(first))  # each bag, with its prediction of some fold
        if times is None and found.task in TIME_TASKS:
            time, event = self._once.labels.T
            self.times = default_times(time, event == 1).tolist()

    def metrics(self, test: IntArray, training: IntArray) -> dict[str, float]:
        """Return the metrics of a fold; NaN where undefined.

        ``bag_ibs`` is left out where no survival is predicted.

        Args:
            test: lines of the fold.
            training: lines of the other folds of its repeat.
        """
        bags = self.found.rows(test)
        bags = bags.rows(bags.known)
        if not bags.bag_ids:
            metrics = dict.fromkeys(METRICS[bags.task], nan)
        else:
            if bags.task in TIME_TASKS and len(training):
                time, event = self.found.labels[training].T
                bags = replace(bags, reference=SurvivalReference(time, event == 1))
            metrics = score(bags.scorer(times=self.times, tau=self.tau)).metrics
        if bags.task in TIME_TASKS and bags.curves is None:
            del metrics["bag_ibs"]
        return metrics

    def too_few(self) -> str:
        """Return why intervals and p-values are withheld, or an empty text."""
        bags = self._once.rows(self._once.known)
        if not bags.bag_ids:
            return "no bag has a known target"
        scorer = bags.scorer(times=self.times, tau=self.tau)
        return scorer.too_few(units(scorer.count, bags.groups), patients=bool(bags.groups))
