"""The inner folds of an outer fold, and the scores of their test bags."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from datamodules.mil.folds import stratified_folds
from datamodules.mil.targets.strata import stratum_labels
from datamodules.sampling.keys import keyed_generator
from engine.cross_validation.fold import BagSet, FoldResult, FoldTask, training_part
from engine.cross_validation.target_folds import target_folds
from evaluation.mil.cross_validation import summary_of
from evaluation.mil.scores import evaluate_bags
from evaluation.targets.folds import TimeOptions
from structures.tasks import CLASS_TASKS

_INNER_PURPOSE = 11


def inner_tasks(bags: BagSet, task: FoldTask, count: int) -> list[FoldTask]:
    """Divide the training bags of an outer fold into inner folds.

    They are stratified and by patient, as outer folds are, by a seed that depends on the outer key
    alone, so that all combinations of a grid have the same inner folds and initial weights. The
    test bags of the outer fold take no part.  # A717

    Args:
        bags: all bags.
        task: the outer fold.
        count: number of inner folds.

    Raises:
        ValueError: there are fewer training bags, or patients, than inner folds.
    """
    folds, key = task
    train = training_part(folds, key)
    seed = int(keyed_generator(_INNER_PURPOSE, *key).integers(2**31))
    own = [bags.groups[n] for n in np.flatnonzero(train)] if bags.groups else ()
    kinds = stratum_labels(bags.labels[train], bags.task, own)
    inner = np.full_like(folds, -1)
    try:
        inner[train] = stratified_folds(kinds, count, seed, 0, own)
    except ValueError as error:
        raise ValueError(
            f"--inner-folds {count} in the training bags of repeat {key[1]}, fold {key[2]}: {error}"
        ) from None
    return [(inner, (seed, 0, fold)) for fold in range(count)]


def inner_mean(
    bags: BagSet,
    outer: FoldTask,
    tasks: Sequence[FoldTask],
    results: Sequence[FoldResult],
    metric: str,
) -> float:
    """Return the mean of a metric over the inner folds of an outer fold in which it is defined.

    Times are scored at deciles of the event times of the outer fold's training bags.

    Args:
        bags: all bags.
        outer: the outer fold.
        tasks: its inner folds.
        results: their results.
        metric: name of the metric.
    """
    if bags.task in CLASS_TASKS:
        return summary_of([_score(bags, result)[metric] for result in results])["mean"]
    found = target_folds(bags, tasks, results, TimeOptions())
    labels = bags.labels[training_part(*outer)]
    return replace(found, labels=labels).scores().summary()[metric]["mean"]


def _score(bags: BagSet, result: FoldResult) -> dict[str, float]:
    labels: npt.NDArray[np.int64] = bags.labels[result.test]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # small folds have NaN values
        return evaluate_bags(labels, result.probabilities, bags.task, result.threshold)
