"""Scores of bags whose target is a time, values or a grade, one scorer a task.

A scorer is prepared once for its bags. ``metrics(weights)`` then scores any number of weighted
samples, so that the data themselves and bootstrap draws use the same code, and `score` returns the
numbers of the data with the reason of each that is undefined.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from evaluation.mil.metrics import METRICS as CLASS_METRICS
from evaluation.mil.metrics import all_metrics, bag_table, confusion, predicted_classes
from evaluation.statistics.sample_size import too_few_units
from evaluation.targets import regression
from evaluation.targets.censoring import FloatArray, IntArray
from evaluation.targets.ordinal import grade_error, quadratic_kappa
from evaluation.targets.survival_scores import SURVIVAL_METRICS, SurvivalScorer
from evaluation.targets.tables import ValueTable

VALUE_METRICS = tuple(f"bag_{name}" for name in regression.METRICS)
GRADE_METRICS = (*CLASS_METRICS, "bag_quadratic_kappa", "bag_mae")
METRICS = {
    "cox": SURVIVAL_METRICS,
    "discrete_time": SURVIVAL_METRICS,
    "regression": VALUE_METRICS,
    "ordinal": GRADE_METRICS,
}
LOWER_IS_BETTER = frozenset({"bag_ibs", "bag_mae", "bag_rmse"})

__all__ = [
    "GRADE_METRICS",
    "LOWER_IS_BETTER",
    "METRICS",
    "SURVIVAL_METRICS",
    "VALUE_METRICS",
    "GradeScorer",
    "Scorer",
    "SurvivalScorer",
    "TargetScores",
    "ValueScorer",
    "score",
]


class Scorer(Protocol):
    """What the bootstrap and the commands need of a task."""

    @property
    def count(self) -> int:
        """Number of bags."""

    def rows(self, chosen: npt.NDArray[np.generic]) -> Scorer:
        """Return the scorer of some bags, given by number or as (n,) bool."""

    def metrics(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Return (R,) values of each metric for (R, n) weights; NaN where undefined."""

    def strata(self, unit: IntArray) -> IntArray:
        """Return the stratum of each of U units (patients, or bags), for (n,) numbers of units."""

    def too_few(self, unit: IntArray, patients: bool = False) -> str:
        """Return why intervals are withheld for these units (see `strata`), or an empty text."""

    def undefined(self, metric: str) -> str:
        """Return why a metric that is NaN on all bags has no value."""

    def details(self) -> dict[str, Any]:
        """Return what a record holds beside the metrics."""


class TargetScores(NamedTuple):
    """Scores of all bags.

    Attributes:
        metrics: value of each metric; NaN where undefined.
        undefined: reason by metric, for those that are NaN.
        details: further entries of the record.
    """

    metrics: dict[str, float]
    undefined: dict[str, str]
    details: dict[str, Any]


def score(scorer: Scorer) -> TargetScores:
    """Score all bags, each once.

    Args:
        scorer: a `SurvivalScorer`, `ValueScorer` or `GradeScorer`.
    """
    found = scorer.metrics(np.ones((1, scorer.count)))
    values = {name: float(value[0]) for name, value in found.items()}
    missing = [name for name, value in values.items() if np.isnan(value)]
    reasons = {name: scorer.undefined(name) for name in missing}
    return TargetScores(values, reasons, scorer.details())


class ValueScorer:
    """Scores of predicted values: each metric is the mean over the targets.

    Bags count for a target where its value is known; if a metric is undefined for one target, so
    is the mean (A730).

    Args:
        table: values and predictions.
    """

    def __init__(self, table: ValueTable) -> None:
        self.table = table
        self._known = np.isfinite(table.target)

    @property
    def count(self) -> int:
        """Number of bags."""
        return len(self.table.target)

    def rows(self, chosen: npt.NDArray[np.generic]) -> ValueScorer:
        """Return the scorer of some bags, given by number or as (n,) bool."""
        return ValueScorer(self.table.rows(chosen))

    def target_metrics(self, weights: FloatArray) -> list[dict[str, FloatArray]]:
        """Return the metrics of `evaluation.targets.regression.value_metrics` of each target."""
        columns = zip(self.table.target.T, self.table.prediction.T, self._known.T, strict=True)
        return [
            regression.value_metrics(target[known], prediction[known], weights[:, known])
            for target, prediction, known in columns
        ]

    def metrics(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Return (R,) means over the targets of each metric."""
        each = self.target_metrics(weights)
        return {
            f"bag_{name}": np.mean([one[name] for one in each], axis=0)
            for name in regression.METRICS
        }

    def strata(self, unit: IntArray) -> IntArray:
        """Return the quartile of each unit's mean of the first value, 4 where it is unknown."""
        value, known = self.table.target[:, 0], self._known[:, 0]
        number = np.bincount(unit, known)
        total = np.bincount(unit, np.where(known, value, 0.0))
        has = number > 0
        found = np.full(len(number), 4, dtype=np.int64)
        if has.any():
            means = total[has] / number[has]
            cuts = np.quantile(means, (0.25, 0.5, 0.75))
            found[has] = np.searchsorted(cuts, means, side="right")
        return found

    def too_few(self, unit: IntArray, patients: bool = False) -> str:
        """Return why intervals are withheld, or an empty text: a target with few known values."""
        known = [np.unique(unit[column]).size for column in self._known.T]
        fewest = int(np.argmin(known))
        name = f"target {self.table.names[fewest]}"
        return too_few_units(name, known[fewest], "with a known value", patients)

    def undefined(self, metric: str) -> str:
        """Return which targets have no value of a metric, and why."""
        short = metric.removeprefix("bag_")
        each = [one["undefined"].get(short) for one in self.details()["targets"].values()]
        named = zip(self.table.names, each, strict=True)
        return "; ".join(f"{name}: {reason}" for name, reason in named if reason)

    def details(self) -> dict[str, Any]:
        """Return ``targets``: for each name its bags, metrics and reasons of undefined ones."""
        found = self.target_metrics(np.ones((1, self.count)))
        targets: dict[str, Any] = {}
        for column, (name, one) in enumerate(zip(self.table.names, found, strict=True)):
            values = {metric: float(value[0]) for metric, value in one.items()}
            known = self._known[:, column]
            reason = _why(self.table.target[known, column], self.table.prediction[known, column])
            missing = {metric: reason for metric, value in values.items() if np.isnan(value)}
            targets[name] = {"bags": int(known.sum()), **values, "undefined": missing}
        return {"targets": targets}


def _why(target: FloatArray, prediction: FloatArray) -> str:
    if not target.size:
        return "no bag has a known value"
    if target.min() == target.max():
        bags = "the only bag" if target.size == 1 else f"all {target.size} bags"
        return f"{bags} with a known value: {target[0]:g}"
    return f"all predictions are {prediction[0]:g}"


class GradeScorer:
    """Scores of predicted grades: the six metrics of classes, quadratic kappa and mean error.

    The said grade is the most probable one. Bags of an unknown grade do not count.

    Args:
        labels: (n,) grades, -1 if unknown.
        probabilities: (n, K) of the grades in their order.

    Raises:
        ValueError: see `evaluation.mil.metrics.bag_table`.
    """

    def __init__(self, labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> None:
        truth, scores = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
        self._known = truth != -1
        stand_in = np.where(self._known, truth, 0)
        self.table = bag_table(stand_in, scores, "multiclass")
        self._said = predicted_classes(self.table, 0.5)

    @property
    def count(self) -> int:
        """Number of bags."""
        return len(self._known)

    def rows(self, chosen: npt.NDArray[np.generic]) -> GradeScorer:
        """Return the scorer of some bags, given by number or as (n,) bool."""
        labels = np.where(self._known, self.table.labels, -1)
        return GradeScorer(labels[chosen], self.table.probabilities[chosen])

    def metrics(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Return (R,) values of each metric."""
        counted = weights * self._known
        matrix = confusion(
            self.table.labels, self._said, self.table.probabilities.shape[1], counted
        )
        own = {"bag_quadratic_kappa": quadratic_kappa(matrix), "bag_mae": grade_error(matrix)}
        return all_metrics(self.table, 0.5, counted) | own

    def strata(self, unit: IntArray) -> IntArray:
        """Return the number of each unit's set of grades: draws keep how many of each there are."""
        grades = np.where(self._known, self.table.labels, -1)
        pairs = np.unique(np.stack((unit, grades), axis=1), axis=0)
        held: dict[int, tuple[int, ...]] = {}
        for number, grade in pairs.tolist():
            held[number] = (*held.get(number, ()), grade)
        kinds = {kind: place for place, kind in enumerate(sorted(set(held.values())))}
        return np.array([kinds[held[number]] for number in range(len(held))], dtype=np.int64)

    def too_few(self, unit: IntArray, patients: bool = False) -> str:
        """Return why intervals are withheld, or an empty text: a grade of few bags."""
        labels = self.table.labels
        held = {
            int(grade): np.unique(unit[self._known & (labels == grade)]).size
            for grade in np.unique(labels[self._known])
        }
        rarest = min(held, key=lambda grade: held[grade], default=0)
        return too_few_units(f"grade {rarest}", held.get(rarest, 0), "of each grade", patients)

    def undefined(self, metric: str) -> str:
        """Return why a metric has no value."""
        if not self._known.any():
            return "no bag has a known grade"
        if metric == "bag_quadratic_kappa":
            return "all true and predicted grades are the same"
        return "needs bags of more than one grade"

    def details(self) -> dict[str, Any]:
        """Return ``grades``: the number of bags of each grade that is known."""
        known = self.table.labels[self._known]
        return {"grades": np.bincount(known, minlength=self.table.probabilities.shape[1]).tolist()}
