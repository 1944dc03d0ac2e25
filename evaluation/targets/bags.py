"""Predictions of bags whose target is a time, values or a grade, ready to be scored or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.targets.censoring import FloatArray
from evaluation.targets.scores import GradeScorer, Scorer, SurvivalScorer, ValueScorer, score
from evaluation.targets.tables import Curves, SurvivalReference, survival_table, value_table
from structures import MILTask
from structures.tasks import TIME_TASKS


@dataclass(frozen=True, slots=True)
class TargetPredictions:
    """Predictions of n bags, in the user's units.

    Attributes:
        task: what the targets are; of a table of times ``discrete_time``.
        bag_ids: names of the bags.
        labels: (n, 2) times and events, (n, T) values, NaN where unknown; (n,) grades, -1 where
            unknown.
        predictions: (n,) risks, (n, T) values, or (n, K) probabilities of the grades.
        curves: predicted survival, or None.
        names: names of the values or grades, or empty.
        groups: the patient of each bag, or empty.
        reference: the training bags of times, or None.
    """

    task: MILTask
    bag_ids: tuple[str, ...]
    labels: npt.NDArray[Any]
    predictions: FloatArray
    curves: Curves | None = None
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    reference: SurvivalReference | None = None

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(n,) bool, True where there is something to compare the prediction with."""
        if self.task == "ordinal":
            return np.asarray(self.labels >= 0)
        missing = np.isnan(self.labels)
        some = ~missing.any(axis=1) if self.task in TIME_TASKS else ~missing.all(axis=1)
        return np.asarray(some)

    def rows(self, chosen: npt.NDArray[np.generic]) -> TargetPredictions:
        """Return some bags, given by number or as (n,) bool."""
        numbers = np.arange(len(self.bag_ids))[chosen].tolist()
        return replace(
            self,
            bag_ids=tuple(self.bag_ids[n] for n in numbers),
            labels=self.labels[chosen],
            predictions=self.predictions[chosen],
            curves=None if self.curves is None else self.curves.rows(chosen),
            groups=tuple(self.groups[n] for n in numbers) if self.groups else (),
        )

    def scorer(
        self,
        *,
        times: Sequence[float] | None = None,
        tau: float | None = None,
        groups: int = 2,
    ) -> Scorer:
        """Return the scorer of the bags, all of which have to be `known`.

        Args:
            times: see `SurvivalScorer`; of no meaning for values and grades, as all arguments.
            tau: see `SurvivalScorer`.
            groups: see `SurvivalScorer`.

        Raises:
            ValueError: a label or prediction is wrong, or an argument is.
        """
        if self.task == "ordinal":
            return GradeScorer(self.labels, self.predictions)
        if self.task == "regression":
            return ValueScorer(value_table(self.labels, self.predictions, self.names))
        time, event = self.labels.T
        table = survival_table(time, event, self.predictions, self.curves)
        return SurvivalScorer(table, self.reference, times=times, tau=tau, groups=groups)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the known bags, NaN where undefined; empty without such bags.

        ``bag_ibs`` is left out where no survival is predicted.  # A785
        """
        known = self.known
        if not known.any():
            return {}
        found = score(self.rows(known).scorer()).metrics
        if self.task in TIME_TASKS and self.curves is None:
            del found["bag_ibs"]
        return found
