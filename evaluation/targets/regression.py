"""Metrics of predicted values for many weighted samples: R2, errors, correlations.

Every function takes values of one target, in the user's unit, and (R, n) weights, and returns R
numbers, so that the whole data and a thousand bootstrap draws use the same code.
"""

from __future__ import annotations

import numpy as np

from evaluation.targets.censoring import BoolArray, FloatArray

# Names of the metrics of `value_metrics`, without the prefix of their log names.
METRICS = ("r2", "mae", "rmse", "pearson", "spearman")


def value_metrics(
    target: FloatArray, prediction: FloatArray, weights: FloatArray
) -> dict[str, FloatArray]:
    """Score the predictions of one target.

    - ``r2``: 1 - SSE / SST, with SST about the mean of the scored bags.
    - ``mae``, ``rmse``: mean absolute error and root of the mean squared error.
    - ``pearson``: linear correlation; ``spearman``: that of the ranks, equal values having the mean
      of their ranks.

    Args:
        target: (n,) true values, finite.
        prediction: (n,) predicted values, finite.
        weights: (R, n) how often each sample contains each bag.

    Returns:
        (R,) of each metric. R2 is NaN where the true values are constant, the correlations where
        the true or the predicted values are, everything where a sample has no bags.
    """
    total = weights.sum(axis=1)
    error = prediction - target
    # Sums of squares about a nearby point lose no digits to a large offset.
    truth, says = target - _middle(target), prediction - _middle(prediction)
    squares = weights @ error**2
    still = _constant(target, weights), _constant(prediction, weights)
    spread, together, other = _moments(truth, says, weights, total)
    ranks = _moments(_ranks(target, weights), _ranks(prediction, weights), weights, total)
    return {
        "r2": 1 - _divide(squares, spread, ~still[0]),
        "mae": _divide(weights @ np.abs(error), total, total > 0),
        "rmse": np.sqrt(_divide(squares, total, total > 0)),
        "pearson": _correlation((spread, together, other), ~(still[0] | still[1])),
        "spearman": _correlation(ranks, ~(still[0] | still[1])),
    }


def _middle(values: FloatArray) -> float:
    return float(values.mean()) if values.size else 0.0


def _constant(values: FloatArray, weights: FloatArray) -> BoolArray:
    """Return (R,), True where all drawn values are equal or none is drawn."""
    if not values.size:
        return np.ones(len(weights), dtype=bool)
    taken = weights > 0
    lowest = np.where(taken, values, np.inf).min(axis=1)
    highest = np.where(taken, values, -np.inf).max(axis=1)
    found: BoolArray = ~(highest > lowest)
    return found


def _moments(
    first: FloatArray, second: FloatArray, weights: FloatArray, total: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return sums of squares of the first, products, and squares of the second, about the means.

    The values are (n,) or, where they differ between samples, (R, n).
    """
    size = np.maximum(total, 1)
    one = (weights * first).sum(axis=1) / size
    two = (weights * second).sum(axis=1) / size
    a, b = first - one[:, None], second - two[:, None]
    each = (a * a, a * b, b * b)
    return tuple(np.einsum("rn,rn->r", weights, v) for v in each)  # type: ignore[return-value]


def _correlation(
    moments: tuple[FloatArray, FloatArray, FloatArray], defined: BoolArray
) -> FloatArray:
    first, together, second = moments
    scale = np.sqrt(first) * np.sqrt(second)
    return np.clip(_divide(together, scale, defined), -1.0, 1.0)


def _ranks(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return (R, n) ranks within each sample, in which a value occurs as often as its weight."""
    if not values.size:
        return np.zeros(weights.shape)
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(distinct.size))
    count = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(count, axis=1) - count / 2
    found: FloatArray = middle[:, place]
    return found


def _divide(top: FloatArray, bottom: FloatArray, defined: BoolArray) -> FloatArray:
    """Divide, with NaN where the quotient is not defined."""
    found = np.full(len(top), np.nan)
    np.divide(top, bottom, out=found, where=defined & (bottom > 0))
    return found
