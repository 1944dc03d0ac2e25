"""Scores of a cross-validation: every metric per fold, with mean and standard deviation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from evaluation.mil.scores import evaluate_bags
from structures import MILTask


class FoldSummary(TypedDict):
    """One metric of a cross-validation.

    Attributes:
        mean: mean over all folds of all repeats in which the metric is defined.
        std: standard deviation over the same folds, without Bessel's correction.
        folds: the value of each fold, ordered by repeat; NaN where it is undefined, such as
            AUROC in a fold without positive bags.
    """

    mean: float
    std: float
    folds: list[float]


def summarise_folds(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    folds: npt.ArrayLike,
    task: MILTask,
    thresholds: Mapping[tuple[int, int], float] | None = None,
) -> dict[str, FoldSummary]:
    """Score the test bags of each fold separately and average over folds.

    Args:
        labels: (B,) classes.
        probabilities: (R, B) or (R, B, C): prediction for bag b in repeat r by the model that did
            not train on it.
        folds: (R, B) test fold of each bag in each repeat.
        task: task of the predictions.
        thresholds: decision threshold of each (repeat, fold); None for 0.5 everywhere.

    Returns:
        A summary of each metric of `evaluate_bags`.

    Raises:
        ValueError: shapes disagree.
    """
    truth, scores, fold_of = np.asarray(labels), np.asarray(probabilities), np.asarray(folds)
    if fold_of.ndim != 2 or scores.shape[:2] != fold_of.shape or fold_of.shape[1] != len(truth):
        raise ValueError(
            f"need folds (R, {len(truth)}) and as many probabilities, got {fold_of.shape} and "
            f"{scores.shape}"
        )
    rows: list[dict[str, float]] = []
    for repeat in range(len(fold_of)):
        for fold in np.unique(fold_of[repeat]).tolist():
            test = fold_of[repeat] == fold
            threshold = 0.5 if thresholds is None else thresholds[repeat, fold]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # small folds have NaN values
                rows.append(evaluate_bags(truth[test], scores[repeat][test], task, threshold))
    return {name: summary_of([row[name] for row in rows]) for name in rows[0]}


def summary_of(values: list[float]) -> FoldSummary:
    """Return mean and deviation of the values of folds, without those that are not finite."""
    defined = np.array([v for v in values if np.isfinite(v)])
    if not defined.size:
        return {"mean": float("nan"), "std": float("nan"), "folds": values}
    return {"mean": float(defined.mean()), "std": float(defined.std()), "folds": values}
