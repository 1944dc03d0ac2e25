"""Paired differences of two models that are scored on the same draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.mil.metrics import FloatArray, all_metrics, bag_table
from evaluation.statistics.bootstrap import bootstrap_weights
from evaluation.statistics.resampling import percentile_interval
from structures import MILTask

_ROUNDING = 1e-12  # largest difference of equal values that were summed in another order


class Difference(NamedTuple):
    """A metric of two models and their difference; NaN if undefined.

    Attributes:
        first: value of the first model on all data.
        second: value of the second model on all data.
        value: first - second.
        low: lower end of the interval of the difference.
        high: upper end of the interval.
        p: two-sided p-value, from the share of draws at or below zero.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p: float


class Paired(NamedTuple):
    """Comparison of two models.

    Attributes:
        differences: difference by metric.
        intervals: (low, high) of each model by metric.
    """

    differences: dict[str, Difference]
    intervals: tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]


def paired_differences(
    points: tuple[Mapping[str, float], Mapping[str, float]],
    draws: tuple[Mapping[str, FloatArray], Mapping[str, FloatArray]],
    level: float = 0.95,
) -> Paired:
    """Compare two models metric by metric.

    The interval is the percentile interval over the draws in which both values are defined. If k of
    n such draws differ by 0 or less and l by 0 or more, p = 2 (1 + min(k, l)) / (1 + n), at most 1
    (A183).

    Args:
        points: value by metric on all data, for each model.
        draws: (R,) values by metric, for each model; draw r has the same data for both.
        level: coverage, in (0, 1).

    Raises:
        ValueError: a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"need a level in (0, 1), got {level}")
    differences = {}
    for name in points[0]:
        first, second = float(points[0][name]), float(points[1][name])
        over = draws[0][name] - draws[1][name]
        over = over[np.isfinite(over)]
        over[np.abs(over) < _ROUNDING] = 0.0
        low, high = percentile_interval(over, level)
        extreme = 1 + min(int((over <= 0).sum()), int((over >= 0).sum()))
        p = min(1.0, 2 * extreme / (1 + over.size)) if over.size else float("nan")
        differences[name] = Difference(first, second, first - second, low, high, p)
    each = [{name: percentile_interval(v, level) for name, v in one.items()} for one in draws]
    return Paired(differences, (each[0], each[1]))


def compare_bags(
    labels: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    task: MILTask,
    thresholds: tuple[float, float] = (0.5, 0.5),
    *,
    groups: Sequence[str] = (),
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Compare two models on the same bags by the stratified bootstrap.

    Bags are drawn as in `evaluation.statistics.bootstrap.bootstrap_intervals`, with the same draws
    for both models, so that the difficulty of a bag for both cancels.

    Args:
        labels: see `evaluation.mil.scores.evaluate_bags`.
        first: probabilities of the first model, see `evaluate_bags`.
        second: probabilities of the second model.
        task: task of the predictions.
        thresholds: decision threshold of each model; fixed over the draws.
        groups: (B,) the patient of each bag, or empty.
        draws: number of draws.
        level: coverage, in (0, 1).
        seed: seed of the draws.

    Raises:
        ValueError: see `bootstrap_intervals`.
    """
    if draws < 1:
        raise ValueError(f"need draws >= 1, got {draws}")
    tables = [bag_table(labels, scores, task) for scores in (first, second)]
    whole = np.ones((1, len(tables[0].labels)))
    points, drawn = [], []
    for table, threshold in zip(tables, thresholds, strict=True):
        values = all_metrics(table, threshold, whole)
        points.append({name: float(value[0]) for name, value in values.items()})
        weights = bootstrap_weights(table, groups, draws, seed)  # the same draws for both models
        drawn.append(joined([all_metrics(table, threshold, block) for block in weights]))
    return paired_differences((points[0], points[1]), (drawn[0], drawn[1]), level)


def joined(blocks: Sequence[Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    """Concatenate the values of several blocks of draws, by metric."""
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
