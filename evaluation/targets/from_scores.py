"""Predictions of targets from the rows that a validation has collected."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.mil.collector import BagScores
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.tables import BinnedCurves, CoxCurves, Curves
from evaluation.targets.training_bags import TrainingBags
from structures import MILTask, TargetCoding


def target_predictions(
    scores: BagScores,
    task: MILTask,
    coding: TargetCoding | None,
    bags: TrainingBags | None,
    names: Sequence[str] = (),
) -> TargetPredictions:
    """Return predictions ready to be scored.

    Args:
        scores: rows whose ``probabilities`` are those of `MILModule.predicted`.
        task: what the targets are.
        coding: of the training; needed for ``discrete_time``.
        bags: training bags of times, or None.
        names: names of the values or grades, or empty.
    """
    found, curves = scores.probabilities, None
    if task == "discrete_time":
        curves, found = _binned(scores, coding), -found.sum(axis=1)
    elif task == "cox":
        curves = None if bags is None or bags.baseline is None else CoxCurves(bags.baseline, found)
    return TargetPredictions(
        task,
        scores.bag_ids,
        scores.labels,
        found,
        curves,
        tuple(names),
        scores.groups,
        None if bags is None else bags.reference,
    )


def _binned(scores: BagScores, coding: TargetCoding | None) -> Curves | None:
    return None if coding is None else BinnedCurves(scores.probabilities, coding.edges[1:])
