"""Bag metrics of many weighted samples, vectorized over the samples.

Every function takes R rows of B non-negative weights and returns R values, so that one sample
(weights of 1) and a thousand bootstrap draws (how often each bag was drawn) use the same code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from structures import MILTask

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class BagTable(NamedTuple):
    """Checked labels and predictions of B bags.

    Attributes:
        labels: (B,) int64 classes, or (B, C) of zeros and ones for a multilabel task.
        probabilities: (B,) of the positive class for a binary task, else (B, C).
        task: task of the predictions.
    """

    labels: IntArray
    probabilities: FloatArray
    task: MILTask


def bag_table(labels: npt.ArrayLike, probabilities: npt.ArrayLike, task: MILTask) -> BagTable:
    """Check and convert labels and predictions.

    Args:
        labels: see `BagTable`.
        probabilities: see `BagTable`.
        task: task of the predictions.

    Raises:
        ValueError: no bags, shapes that do not match the task, labels that are not classes, or
            probabilities that are not finite or outside [0, 1]; the message names the first row.
    """
    truth, scores = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    wanted = {"binary": (1, 1), "multiclass": (1, 2), "multilabel": (2, 2)}[task]
    if (truth.ndim, scores.ndim) != wanted or len(truth) != len(scores) or len(truth) == 0:
        raise ValueError(
            f"a {task} task needs labels with {wanted[0]} axes and probabilities with {wanted[1]}, "
            f"with the same number of rows, at least one; got {truth.shape} and {scores.shape}"
        )
    if task == "multilabel" and truth.shape != scores.shape:
        raise ValueError(f"labels are {truth.shape} but probabilities are {scores.shape}")
    classes = scores.shape[1] if task == "multiclass" else 2
    _refuse_rows(~((truth >= 0) & (truth < classes) & (truth == np.floor(truth))), truth, "label")
    _refuse_rows(~((scores >= 0) & (scores <= 1)), scores, "probability")
    return BagTable(truth.astype(np.int64), scores, task)


def _refuse_rows(bad: BoolArray, values: npt.NDArray[np.generic], kind: str) -> None:
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    if rows.size:
        raise ValueError(f"bag {rows[0]} has the {kind} {values[rows[0]]} ({rows.size} such bags)")


def predicted_classes(table: BagTable, threshold: float) -> IntArray:
    """Return the predicted class of each bag.

    Args:
        table: labels and predictions.
        threshold: probability from which a binary or multilabel class counts as present; a
            multiclass task uses the most probable class instead.

    Returns:
        (B,) classes, or (B, C) of zeros and ones for a multilabel task.
    """
    if table.task == "multiclass":
        best: IntArray = table.probabilities.argmax(axis=1).astype(np.int64)
        return best
    return (table.probabilities >= threshold).astype(np.int64)


def auroc(positive: BoolArray, scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the probability that a positive scores higher than a negative; ties count half.

    Args:
        positive: (B,) bool.
        scores: (B,) finite.
        weights: (R, B).

    Returns:
        (R,) in [0, 1]; NaN where positives or negatives have no weight.
    """
    positives, negatives = _by_score(positive, scores, weights)
    below = negatives.cumsum(axis=1) - negatives
    wins = (positives * (below + negatives / 2)).sum(axis=1)
    return _divide(wins, positives.sum(axis=1) * negatives.sum(axis=1))


def average_precision(positive: BoolArray, scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the mean over positives of the precision at their score, without interpolation.

    Args:
        positive: (B,) bool.
        scores: (B,) finite.
        weights: (R, B).

    Returns:
        (R,) in (0, 1]; NaN where positives or negatives have no weight.
    """
    positives, negatives = _by_score(positive, scores, weights)
    hits = positives[:, ::-1].cumsum(axis=1)[:, ::-1]
    alarms = negatives[:, ::-1].cumsum(axis=1)[:, ::-1]
    precision = np.nan_to_num(_divide(hits, hits + alarms))  # 0 / 0 where all weights are 0
    total = positives.sum(axis=1)
    value = _divide((positives * precision).sum(axis=1), total)
    return np.where(negatives.sum(axis=1) > 0, value, np.nan)


def confusion(truth: IntArray, decided: IntArray, classes: int, weights: FloatArray) -> FloatArray:
    """Return (R, C, C) summed weights, rows by true class and columns by predicted class.

    Args:
        truth: (B,) true classes.
        decided: (B,) predicted classes.
        classes: C.
        weights: (R, B).
    """
    draws, cells = len(weights), classes * classes
    cell = np.arange(draws)[:, None] * cells + (truth * classes + decided)
    sums: FloatArray = np.bincount(cell.ravel(), weights.ravel(), draws * cells).astype(np.float64)
    return sums.reshape(draws, classes, classes)


def decision_metrics(matrix: FloatArray) -> dict[str, FloatArray]:
    """Return accuracy, balanced accuracy, macro F1 and Cohen's kappa of confusion matrices.

    A class is included in balanced accuracy if it has true bags, and in macro F1 if it has true or
    predicted bags. Kappa is NaN if chance agreement is complete.

    Args:
        matrix: (R, C, C), see `confusion`.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``f1``, ``kappa``: (R,) each.
    """
    total = matrix.sum(axis=(1, 2))
    hits = np.diagonal(matrix, axis1=1, axis2=2)
    truth, decided = matrix.sum(axis=2), matrix.sum(axis=1)
    observed = _divide(hits.sum(axis=1), total)
    chance = _divide((truth * decided).sum(axis=1), total**2)
    return {
        "accuracy": observed,
        "balanced_accuracy": _mean_defined(_divide(hits, truth)),
        "f1": _mean_defined(_divide(2 * hits, truth + decided)),
        "kappa": _divide(observed - chance, 1 - chance),
    }


# Log names of the metrics that `all_metrics` returns.
METRICS = tuple(
    f"bag_{name}" for name in ("auroc", "auprc", "accuracy", "balanced_accuracy", "f1", "kappa")
)


def all_metrics(table: BagTable, threshold: float, weights: FloatArray) -> dict[str, FloatArray]:
    """Return every bag metric by its log name.

    Definitions are in `evaluation.mil.scores.evaluate_bags`.

    Args:
        table: labels and predictions.
        threshold: see `predicted_classes`.
        weights: (R, B).

    Returns:
        (R,) values of each metric.
    """
    columns = _columns(table)
    metrics = {
        "auroc": _mean_defined(np.stack([auroc(*c, weights) for c in columns], axis=1)),
        "auprc": _mean_defined(np.stack([average_precision(*c, weights) for c in columns], axis=1)),
    }
    decided = predicted_classes(table, threshold)
    if table.task != "multilabel":
        classes = 2 if table.task == "binary" else table.probabilities.shape[1]
        metrics |= decision_metrics(confusion(table.labels, decided, classes, weights))
    else:
        metrics |= _multilabel_metrics(table.labels, decided, weights)
    return {f"bag_{name}": value for name, value in metrics.items()}


def _columns(table: BagTable) -> list[tuple[BoolArray, FloatArray]]:
    """Return (is positive, score) for each one-against-the-rest problem of the task."""
    if table.task == "binary":
        return [(table.labels == 1, table.probabilities)]
    scores = table.probabilities
    if table.task == "multiclass":
        return [(table.labels == c, scores[:, c]) for c in range(scores.shape[1])]
    return [(table.labels[:, c] == 1, scores[:, c]) for c in range(scores.shape[1])]


def _multilabel_metrics(
    labels: IntArray, decided: IntArray, weights: FloatArray
) -> dict[str, FloatArray]:
    matrices = [confusion(t, d, 2, weights) for t, d in zip(labels.T, decided.T, strict=True)]
    each = [decision_metrics(matrix) for matrix in matrices]
    metrics = {n: _mean_defined(np.stack([m[n] for m in each], axis=1)) for n in each[0]}
    positive_f1 = [
        _divide(2 * m[:, 1, 1], 2 * m[:, 1, 1] + m[:, 0, 1] + m[:, 1, 0]) for m in matrices
    ]
    return metrics | {"f1": _mean_defined(np.stack(positive_f1, axis=1))}


def _by_score(
    positive: BoolArray, scores: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the weights of positives and negatives at each distinct score, (R, U) ascending."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], np.diff(scores[order]) > 0)))
    sorted_weights, sorted_positive = weights[:, order], positive[order]
    positives = np.add.reduceat(sorted_weights * sorted_positive, starts, axis=1)
    negatives = np.add.reduceat(sorted_weights * ~sorted_positive, starts, axis=1)
    return positives, negatives


def _divide(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """Divide, with NaN where the denominator is 0."""
    result = np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result


def _mean_defined(values: FloatArray) -> FloatArray:
    """Average (R, C) over the classes whose value is defined; NaN if none is defined."""
    defined = np.isfinite(values)
    return _divide(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1).astype(float))
