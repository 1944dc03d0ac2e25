"""Scores of several models, those of the folds of a cross-validation, on a set of other bags."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.mil.collector import BagScores
from evaluation.mil.cross_validation import FoldSummary, summary_of
from evaluation.mil.scores import evaluate_bags
from evaluation.statistics.bootstrap import bootstrap_intervals
from evaluation.statistics.sample_size import too_few_bags, withheld
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.bootstrap import bootstrap_intervals as target_intervals
from evaluation.targets.bootstrap import units
from evaluation.targets.censoring import FloatArray
from evaluation.targets.folds import TimeOptions
from evaluation.targets.from_scores import target_predictions
from evaluation.targets.scores import METRICS, Scorer, score
from evaluation.targets.tables import Curves, SurvivalReference
from evaluation.targets.training_bags import TrainingBags
from structures import MILTask, TargetCoding
from structures.tasks import CLASS_TASKS, TIME_TASKS

_DRAWS = 1000


class ModelPredictions(NamedTuple):
    """Predictions of the model of one fold for all bags of a set.

    Attributes:
        place: repeat and fold of the model.
        predictions: (B,) or (B, C), those of `MILModule.predicted`.
        threshold: the decision threshold of the model.
        coding: its coding of times and values, or None.
        training_bags: what scores of times take from its training bags, or None.
    """

    place: tuple[int, int]
    predictions: FloatArray
    threshold: float
    coding: TargetCoding | None = None
    training_bags: TrainingBags | None = None


class MeanOfModels:
    """Mean over several models of the survival that each predicts for the same bags.

    The edges of the bins of discrete-time models differ between folds, so that curves are averaged
    at times; where edges are equal, this is the mean of S_k.

    Args:
        curves: those of each model.
    """

    def __init__(self, curves: Sequence[Curves]) -> None:
        self.curves = tuple(curves)

    def at(self, times: FloatArray) -> FloatArray:
        """Return (n, T) probabilities."""
        found: FloatArray = np.mean([curve.at(times) for curve in self.curves], axis=0)
        return found

    def rows(self, chosen: npt.NDArray[np.generic]) -> MeanOfModels:
        """Return the curves of some bags."""
        return MeanOfModels([curve.rows(chosen) for curve in self.curves])


class EnsembleScores(NamedTuple):
    """Scores of the mean of the predictions of all models.

    Attributes:
        metrics: value of each metric; NaN where undefined.
        intervals: 95 % bootstrap interval of each; NaN where withheld.
        threshold: decision threshold of the mean probabilities, or None where there is none.
        details: further entries of the record.
        notes: why intervals are withheld.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    threshold: float | None = None
    details: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        shown = {} if self.threshold is None else {"threshold": self.threshold}
        numbers = {"metrics": self.metrics, "intervals": self.intervals}
        return {**numbers, **shown, "notes": self.notes, **self.details}


@dataclass(frozen=True, slots=True)
class ExternalPredictions:
    """Predictions of M models for the B bags of a set.

    Attributes:
        name: name of the set.
        bag_ids: ids of the bags.
        labels: see `BagScores`; some may be unknown.
        task: what the labels are.
        models: predictions of each model, ordered by repeat and fold.
        names: names of classes, values or grades.
        groups: the patient of each bag, or empty.
        trained_on: times and events of all bags that some model was trained on, or None.
        options: how times are scored; by default at deciles of the event times of the set.
    """

    name: str
    bag_ids: tuple[str, ...]
    labels: npt.NDArray[Any]
    task: MILTask
    models: tuple[ModelPredictions, ...]
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    trained_on: SurvivalReference | None = None
    options: TimeOptions = field(default_factory=TimeOptions)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(B,) bool, True where there is something to compare the predictions with."""
        return self.scores(self.models[0].predictions).known

    @property
    def threshold(self) -> float:
        """Decision threshold of the mean probabilities: the mean of the models' own (A710)."""
        return float(np.mean([model.threshold for model in self.models]))

    @property
    def mean(self) -> FloatArray:
        """(B,) or (B, C) mean of the predictions, without meaning for ``discrete_time``."""
        found: FloatArray = np.mean([model.predictions for model in self.models], axis=0)
        return found

    def scores(self, predictions: FloatArray) -> BagScores:
        """Return predictions of a model, or of all, as rows of bags."""
        number = np.arange(len(self.bag_ids))
        return BagScores(self.bag_ids, number, self.labels, predictions, self.groups)

    def of_model(self, model: ModelPredictions) -> TargetPredictions:
        """Return the predictions of a model for times, values or grades."""
        scores, bags = self.scores(model.predictions), model.training_bags
        return target_predictions(scores, self.task, model.coding, bags, self.names)

    def ensemble(self) -> TargetPredictions:
        """Return means over the models of risks, survival, values or probabilities of grades.

        Censoring and ``tau`` are those of all bags that some model was trained on; risk groups are
        cut at quantiles of the scored risks (A713).
        """
        each = [self.of_model(model) for model in self.models]
        curves = [one.curves for one in each if one.curves is not None]
        return TargetPredictions(
            self.task,
            self.bag_ids,
            self.labels,
            np.mean([one.predictions for one in each], axis=0),
            MeanOfModels(curves) if len(curves) == len(each) else None,
            self.names,
            self.groups,
            self.trained_on,
        )

    def summary(self) -> dict[str, FoldSummary]:
        """Return mean, spread and values of each metric over the models."""
        rows = [self._metrics(model) for model in self.models]
        return {name: summary_of([row[name] for row in rows]) for name in rows[0]}

    def _metrics(self, model: ModelPredictions) -> dict[str, float]:
        known = self.known
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # small sets have NaN values
            if self.task not in CLASS_TASKS:
                found = score(self.of_model(model).rows(known).scorer(**self._times())).metrics
                return {name: found[name] for name in METRICS[self.task]}
            scores = model.predictions[known]
            return evaluate_bags(self.labels[known], scores, self.task, model.threshold)

    def ensemble_scores(self, draws: int = _DRAWS, seed: int = 0) -> EnsembleScores:
        """Score the mean predictions of the known bags, with intervals as `evaluate.py mil` has.

        Args:
            draws: bootstrap draws.
            seed: seed of the draws.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if self.task not in CLASS_TASKS:
                return self._of_targets(draws, seed)
            return self._of_classes(draws, seed)

    def _of_classes(self, draws: int, seed: int) -> EnsembleScores:
        known, threshold = self.known, self.threshold
        labels, mean = self.labels[known], self.mean[known]
        groups = self._groups(known)
        intervals = bootstrap_intervals(
            labels, mean, self.task, threshold, groups=groups, draws=draws, seed=seed
        )
        ids = tuple(self.bag_ids[n] for n in np.flatnonzero(known))
        scores = BagScores(ids, np.flatnonzero(known), labels, mean, groups)
        few = too_few_bags(scores, self.task, self.names, groups)
        return EnsembleScores(
            evaluate_bags(labels, mean, self.task, threshold),
            withheld(intervals) if few else intervals,
            None if self.task == "multiclass" else threshold,
            notes=(few,) if few else (),
        )

    def _of_targets(self, draws: int, seed: int) -> EnsembleScores:
        bags = self.ensemble().rows(self.known)
        scorer: Scorer = bags.scorer(**self._times())
        found = score(scorer)
        intervals = target_intervals(scorer, patients=bags.groups, draws=draws, seed=seed)
        few = scorer.too_few(units(scorer.count, bags.groups), patients=bool(bags.groups))
        return EnsembleScores(
            found.metrics,
            withheld(intervals) if few else intervals,
            details={"undefined": found.undefined, **found.details},
            notes=(few,) if few else (),
        )

    def _times(self) -> dict[str, Any]:
        """Return the arguments of `TargetPredictions.scorer`."""
        times, tau, groups = self.options
        return {"times": times, "tau": tau, "groups": groups or 2}

    def _groups(self, known: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        numbers = np.flatnonzero(known).tolist()
        return tuple(self.groups[n] for n in numbers) if self.groups else ()

    def record(self, draws: int = _DRAWS, seed: int = 0) -> dict[str, Any]:
        """Return the entry of the set in a record."""
        return {
            "bags": int(self.known.sum()),
            "metrics": self.summary(),
            "ensemble": self.ensemble_scores(draws, seed).record(),
        }


def reference_of_all(labels: npt.NDArray[Any], task: MILTask) -> SurvivalReference | None:
    """Return times and events of all bags of a cross-validation, or None for other tasks."""
    return TrainingBags.of(labels).reference if task in TIME_TASKS else None
