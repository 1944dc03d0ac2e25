"""Metrics, decision thresholds and curves of bag predictions, and AUROC of attention."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.mil.metrics import (
    FloatArray,
    IntArray,
    all_metrics,
    auroc,
    bag_table,
    confusion,
    predicted_classes,
)
from structures import MILTask


class RocCurve(NamedTuple):
    """ROC curve with (P,) points, thresholds descending from infinity, both rates ascending."""

    false_positive_rate: FloatArray
    true_positive_rate: FloatArray
    thresholds: FloatArray


class PrCurve(NamedTuple):
    """Precision-recall curve with (P,) points, thresholds descending from infinity."""

    recall: FloatArray
    precision: FloatArray
    thresholds: FloatArray


def evaluate_bags(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, task: MILTask, threshold: float = 0.5
) -> dict[str, float]:
    """Score the predictions for B bags.

    - ``bag_auroc``, ``bag_auprc``: area under the ROC curve and average precision; for several
      classes the mean over one-against-the-rest problems.
    - ``bag_accuracy``: accuracy; for a multilabel task the share of correct bag-label pairs.
    - ``bag_balanced_accuracy``: mean recall of the classes.
    - ``bag_f1``: mean F1 of the classes, both of them for a binary task; for a multilabel task the
      mean F1 of the labels.
    - ``bag_kappa``: Cohen's kappa; for a multilabel task the mean over the labels.

    Args:
        labels: (B,) classes, or (B, C) of zeros and ones for a multilabel task.
        probabilities: (B,) of the positive class for a binary task, else (B, C).
        task: task of the predictions.
        threshold: probability from which a class counts as present (``binary``, ``multilabel``).
            Choose it on validation data, never on the bags scored here.

    Returns:
        The six metrics. Undefined metrics are NaN, with a warning: ranking metrics without both
        positives and negatives, kappa if there is only one class.

    Raises:
        ValueError: see `evaluation.mil.metrics.bag_table`.
    """
    table = bag_table(labels, probabilities, task)
    metrics = all_metrics(table, threshold, np.ones((1, len(table.labels))))
    values = {name: float(value[0]) for name, value in metrics.items()}
    undefined = [name for name, value in values.items() if np.isnan(value)]
    if undefined:
        warnings.warn(
            f"{', '.join(undefined)} need bags of more than one class; reported as NaN",
            stacklevel=2,
        )
    return values


def confusion_matrix(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, task: MILTask, threshold: float = 0.5
) -> IntArray:
    """Count bags by true class (rows) and predicted class (columns).

    Args:
        labels: see `evaluate_bags`.
        probabilities: see `evaluate_bags`.
        task: task of the predictions.
        threshold: see `evaluate_bags`.

    Returns:
        (C, C), or (C, 2, 2) for a multilabel task.
    """
    table = bag_table(labels, probabilities, task)
    decided = predicted_classes(table, threshold)
    weights = np.ones((1, len(decided)))
    if task == "multilabel":
        pairs = zip(table.labels.T, decided.T, strict=True)
        matrix = np.concatenate([confusion(truth, says, 2, weights) for truth, says in pairs])
    else:
        classes = 2 if task == "binary" else table.probabilities.shape[1]
        matrix = confusion(table.labels, decided, classes, weights)[0]
    return matrix.astype(np.int64)


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> RocCurve:
    """Return the ROC curve of a binary task with one point for every distinct score.

    Args:
        labels: (B,) zeros and ones.
        scores: (B,) in [0, 1]; a bag counts as positive if its score >= threshold.

    Returns:
        The curve; a rate is NaN if its class has no bags.
    """
    hits, alarms, thresholds = _counts_above(labels, scores)
    with np.errstate(invalid="ignore"):
        return RocCurve(alarms / alarms[-1], hits / hits[-1], thresholds)


def pr_curve(labels: npt.ArrayLike, scores: npt.ArrayLike) -> PrCurve:
    """Return the precision-recall curve of a binary task with one point for every distinct score.

    Args:
        labels: (B,) zeros and ones.
        scores: (B,) in [0, 1]; a bag counts as positive if its score >= threshold.

    Returns:
        The curve. It starts at recall 0, precision 1; recall is NaN without positives.
    """
    hits, alarms, thresholds = _counts_above(labels, scores)
    precision = np.ones_like(hits)
    np.divide(hits, hits + alarms, out=precision, where=hits + alarms > 0)
    with np.errstate(invalid="ignore"):
        return PrCurve(hits / hits[-1], precision, thresholds)


def youden_threshold(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the threshold with the largest sensitivity + specificity (Youden 1950).

    It is the midpoint of two neighbouring scores; among equally good thresholds, the nearest to
    0.5 is used. Choose it on validation bags: on the scored bags it inflates decision metrics.

    Args:
        labels: (B,) zeros and ones.
        scores: (B,) in [0, 1].

    Returns:
        The threshold; 0.5, with a warning, if no threshold beats chance or a class is missing.
    """
    hits, alarms, scores_down = _counts_above(labels, scores)
    if hits[-1] > 0 and alarms[-1] > 0:
        gain = hits[1:-1] / hits[-1] - alarms[1:-1] / alarms[-1]
        if gain.size and gain.max() > 0:
            above, below = scores_down[1:-1], scores_down[2:]
            middle = (above + below) / 2
            middle = np.where(middle > below, middle, above)  # adjacent floats have no midpoint
            best = middle[gain >= gain.max() - 1e-12]
            return float(best[np.abs(best - 0.5).argmin()])
    warnings.warn("no threshold separates the classes of these bags; using 0.5", stacklevel=2)
    return 0.5


def instance_auroc(attention: npt.ArrayLike, instance_labels: npt.ArrayLike) -> float:
    """Return the AUROC of attention for the witnesses of one bag against its other instances.

    Args:
        attention: (N,) weights or logits.
        instance_labels: (N,) 1 for a witness, -1 if unknown (left out).

    Returns:
        AUROC in [0, 1]; NaN for a bag without both kinds.
    """
    scores = np.asarray(attention, dtype=np.float64)
    truth = np.asarray(instance_labels)
    if scores.ndim != 1 or scores.shape != truth.shape:
        raise ValueError(
            f"attention and instance labels must both be (N,), got {scores.shape} and {truth.shape}"
        )
    known = truth != -1
    if not known.any():
        return float("nan")
    return float(auroc(truth[known] == 1, scores[known], np.ones((1, int(known.sum()))))[0])


def witness_auroc(
    attention: npt.ArrayLike, instance_labels: npt.ArrayLike, offsets: npt.ArrayLike
) -> float:
    """Average `instance_auroc` over the bags that have witnesses and other instances.

    Args:
        attention: (N,) attention of all bags.
        instance_labels: (N,) 1 for a witness, -1 if unknown.
        offsets: (B + 1,); bag b owns rows ``offsets[b]:offsets[b + 1]``.

    Returns:
        Mean in [0, 1]; NaN if no bag has both kinds.
    """
    cuts = np.asarray(offsets)[1:-1]
    parts = zip(
        np.split(np.asarray(attention), cuts),
        np.split(np.asarray(instance_labels), cuts),
        strict=True,
    )
    values = np.array([instance_auroc(weights, truth) for weights, truth in parts])
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")


def _counts_above(
    labels: npt.ArrayLike, scores: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return hits and false alarms at each threshold: infinity, then scores in descending order."""
    table = bag_table(labels, scores, "binary")
    distinct, place = np.unique(table.probabilities, return_inverse=True)
    positives = np.bincount(place, table.labels, minlength=distinct.size)
    everything = np.bincount(place, minlength=distinct.size)
    hits = np.concatenate(([0.0], positives[::-1].cumsum()))
    alarms = np.concatenate(([0.0], (everything - positives)[::-1].cumsum()))
    return hits, alarms, np.concatenate(([np.inf], distinct[::-1]))
