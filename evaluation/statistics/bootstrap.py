"""Bootstrap confidence intervals of bag metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from evaluation.mil.metrics import BagTable, FloatArray, IntArray, all_metrics, bag_table
from evaluation.statistics.resampling import draw_counts, percentile_interval
from structures import MILTask

_CELLS_PER_BLOCK = 1_000_000  # draws x bags per block, about 50 MB with all temporaries


def bootstrap_intervals(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    task: MILTask,
    threshold: float = 0.5,
    *,
    groups: Sequence[str] = (),
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return percentile intervals of every metric of `evaluation.mil.scores.evaluate_bags`.

    Bags are drawn with replacement within their class, so every draw has the class counts of the
    data. If groups are given, whole groups are drawn, within the groups that have the same set of
    classes. A multilabel task has no single class to stratify by and is drawn without strata.

    Args:
        labels: see `evaluate_bags`.
        probabilities: see `evaluate_bags`.
        task: task of the predictions.
        threshold: see `evaluate_bags`; fixed over the draws.
        groups: (B,) the patient of each bag, or empty.
        draws: number of draws.
        level: share of the draws inside the interval, in (0, 1).
        seed: seed of the draws; the same seed gives the same intervals.

    Returns:
        (low, high) of each metric; NaN if the metric is undefined in every draw.

    Raises:
        ValueError: invalid predictions (see `bag_table`), draws below 1, a level outside (0, 1), or
            a number of groups that differs from the number of bags.
    """
    table = bag_table(labels, probabilities, task)
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"need draws >= 1 and level in (0, 1), got {draws} and {level}")
    blocks = [
        all_metrics(table, threshold, weights)
        for weights in bootstrap_weights(table, groups, draws, seed)
    ]
    return {
        name: percentile_interval(np.concatenate([block[name] for block in blocks]), level)
        for name in blocks[0]
    }


def bootstrap_weights(
    table: BagTable, groups: Sequence[str], draws: int, seed: int
) -> Iterator[FloatArray]:
    """Yield blocks (r, B) of how often each draw contains each bag; all r sum to ``draws``.

    Raises:
        ValueError: the number of groups differs from the number of bags.
    """
    count = len(table.labels)
    if groups and len(groups) != count:
        raise ValueError(f"{len(groups)} groups for {count} bags; give one for every bag or none")
    unit = np.unique(groups, return_inverse=True)[1] if groups else np.arange(count)
    strata = _strata(table, unit.astype(np.int64))
    for taken in draw_counts(strata, draws, seed, max(1, _CELLS_PER_BLOCK // count)):
        yield taken[:, unit].astype(np.float64)


def _strata(table: BagTable, unit: IntArray) -> list[IntArray]:
    """Return the numbers of the units of each stratum."""
    if table.task == "multilabel":
        return [np.unique(unit)]
    classes: dict[int, set[int]] = {}
    for number, label in zip(unit.tolist(), table.labels.tolist(), strict=True):
        classes.setdefault(number, set()).add(label)
    kinds: dict[frozenset[int], list[int]] = {}
    for number, held in sorted(classes.items()):
        kinds.setdefault(frozenset(held), []).append(number)
    return [np.array(members, dtype=np.int64) for members in kinds.values()]
