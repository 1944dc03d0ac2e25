"""Bootstrap intervals and paired comparison of the scores of times, values and grades."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from evaluation.statistics.paired import Paired, joined, paired_differences
from evaluation.statistics.resampling import draw_counts, percentile_interval
from evaluation.targets.censoring import FloatArray, IntArray
from evaluation.targets.scores import Scorer

_CELLS_PER_BLOCK = 1_000_000  # draws x bags of a block


def bootstrap_intervals(
    scorer: Scorer,
    *,
    patients: Sequence[str] = (),
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return percentile intervals of every metric of a scorer.

    Bags, or whole patients where they are given, are drawn with replacement within the strata of
    the task, so that every draw has as many events, or units of each grade or quartile of the
    first value, as the data (A722).

    Args:
        scorer: scorer of n bags.
        patients: (n,) the patient of each bag, or empty.
        draws: number of draws.
        level: share of the draws inside the interval, in (0, 1).
        seed: seed of the draws.

    Returns:
        (low, high) of each metric; NaN if it is undefined on the data or in every draw.

    Raises:
        ValueError: draws below 1, a level outside (0, 1), or a number of patients that differs
            from that of the bags.
    """
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"need draws >= 1 and level in (0, 1), got {draws} and {level}")
    values = joined([scorer.metrics(w) for w in bootstrap_weights(scorer, patients, draws, seed)])
    nothing = np.zeros(0)
    return {
        name: percentile_interval(nothing if np.isnan(value) else values[name], level)
        for name, value in _on_all(scorer).items()
    }


def _on_all(scorer: Scorer) -> dict[str, float]:
    """Return the metrics of all bags, each once."""
    found = scorer.metrics(np.ones((1, scorer.count)))
    return {name: float(value[0]) for name, value in found.items()}


def bootstrap_weights(
    scorer: Scorer, patients: Sequence[str], draws: int, seed: int
) -> Iterator[FloatArray]:
    """Yield blocks (r, n) of how often each draw contains each bag; all r sum to ``draws``.

    Raises:
        ValueError: the number of patients differs from that of the bags.
    """
    unit = units(scorer.count, patients)
    strata = scorer.strata(unit)
    members = [np.flatnonzero(strata == kind).astype(np.int64) for kind in np.unique(strata)]
    for taken in draw_counts(members, draws, seed, max(1, _CELLS_PER_BLOCK // scorer.count)):
        yield taken[:, unit].astype(np.float64)


def units(count: int, patients: Sequence[str]) -> IntArray:
    """Return (n,) numbers of what is drawn as a whole: patients, or bags if none are given.

    Raises:
        ValueError: the number of patients differs from that of the bags.
    """
    if patients and len(patients) != count:
        raise ValueError(f"{len(patients)} patients for {count} bags; give one for each or none")
    if not patients:
        return np.arange(count, dtype=np.int64)
    return np.unique(np.asarray(patients), return_inverse=True)[1].astype(np.int64)


def compare_scores(
    first: Scorer,
    second: Scorer,
    *,
    patients: Sequence[str] = (),
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Compare two models on the same bags by the bootstrap of `bootstrap_intervals`.

    Both are scored on the same draws. Give both the same reference, times and tau.

    Args:
        first: scorer of the first model.
        second: scorer of the second model: the same targets in the same order.
        patients: (n,) the patient of each bag, or empty.
        draws: number of draws.
        level: coverage, in (0, 1).
        seed: seed of the draws.

    Raises:
        ValueError: see `bootstrap_intervals`, or the numbers of bags differ.
    """
    if draws < 1 or first.count != second.count:
        raise ValueError(
            f"need draws >= 1 and as many bags of both models, got {draws}, {first.count} and "
            f"{second.count}"
        )
    points = _on_all(first), _on_all(second)
    pairs = [
        (first.metrics(weights), second.metrics(weights))
        for weights in bootstrap_weights(first, patients, draws, seed)
    ]
    drawn = joined([pair[0] for pair in pairs]), joined([pair[1] for pair in pairs])
    return paired_differences(points, drawn, level)
