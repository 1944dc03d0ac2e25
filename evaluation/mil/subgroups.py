"""Scores of subgroups of bags, such as those of each site, and the largest gaps between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.mil.csv_rows import number
from evaluation.statistics.paired import joined
from evaluation.statistics.resampling import draw_counts, percentile_interval
from evaluation.statistics.sample_size import withheld
from evaluation.targets.bootstrap import units
from evaluation.targets.censoring import FloatArray, IntArray
from evaluation.targets.scores import Scorer, score

NO_VALUE = "(no value)"  # the subgroup of bags whose field is empty  # A753
_CELLS_PER_BLOCK = 1_000_000  # draws x bags of a block
_OF_ALL = ("tau", "censoring")  # details that all subgroups share


def subgroup_scores(
    scorer: Scorer,
    values: Sequence[str],
    *,
    patients: Sequence[str] = (),
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score the bags of each value of a column with the threshold, tau, times and so on of all.

    Intervals are percentiles of one bootstrap of all subgroups together, so that they and the gaps
    come from the same draws. If no patient is in two subgroups, each is drawn by itself within the
    strata of the task; otherwise whole patients are drawn within the strata of the task, each
    with the bags of all subgroups (A754).

    Args:
        scorer: scorer of n bags.
        values: (n,) value of the column; empty where a bag has none.
        patients: (n,) the patient of each bag, or empty.
        draws: number of draws.
        level: share of the draws inside the intervals, in (0, 1).
        seed: seed of the draws.

    Returns:
        Subgroups and gaps. For each value, numbers in their order and `NO_VALUE` last: ``bags``,
        ``metrics``, ``intervals``, ``undefined`` with reasons, ``note`` where intervals are
        withheld, and the details of the scorer. For each metric: ``gap``, the ``largest`` value
        less the ``smallest`` of the subgroups that have one, without `NO_VALUE`; the names of the
        two; and the ``interval`` of their difference. A gap is NaN with fewer than two values.

    Raises:
        ValueError: draws below 1, a level outside (0, 1), or lengths that differ.
    """
    if draws < 1 or not 0 < level < 1 or len(values) != scorer.count:
        raise ValueError(
            f"need draws >= 1, level in (0, 1) and a value for each of {scorer.count} bags, got "
            f"{draws}, {level} and {len(values)} values"
        )
    named = np.array([value or NO_VALUE for value in values])
    members = {name: np.flatnonzero(named == name) for name in _ordered(set(named.tolist()))}
    parts = {name: scorer.rows(rows) for name, rows in members.items()}
    unit = units(scorer.count, patients)
    drawn = _drawn(scorer, parts, members, unit, draws, seed)
    subgroups = {}
    for name, part in parts.items():
        own = np.unique(unit[members[name]], return_inverse=True)[1].astype(np.int64)
        few = part.too_few(own, patients=bool(patients))
        subgroups[name] = _subgroup(part, drawn[name], few, level)
    metrics = next(iter(subgroups.values()))["metrics"]
    return subgroups, {name: _gap(name, subgroups, drawn, level) for name in metrics}


def _subgroup(
    part: Scorer, drawn: Mapping[str, FloatArray], few: str, level: float
) -> dict[str, Any]:
    """Return the entry of a subgroup; ``few`` says why it has no intervals."""
    found = score(part)
    intervals = {
        name: percentile_interval(drawn[name] + 0 * value, level)  # NaN if undefined on the data
        for name, value in found.metrics.items()
    }
    return {
        "bags": part.count,
        "metrics": found.metrics,
        "intervals": withheld(intervals) if few else intervals,
        "undefined": found.undefined,
        "note": few or None,
        **{k: v for k, v in found.details.items() if k not in _OF_ALL},
    }


def _ordered(names: set[str]) -> list[str]:
    """Return names sorted, as numbers if all are, with `NO_VALUE` last."""
    known = sorted(names - {NO_VALUE})
    numbers = {name: number(name) for name in known}
    if None not in numbers.values():
        known.sort(key=lambda name: numbers[name] or 0.0)
    return known + [NO_VALUE] * (NO_VALUE in names)


def _drawn(
    scorer: Scorer,
    parts: Mapping[str, Scorer],
    members: Mapping[str, IntArray],
    unit: IntArray,
    draws: int,
    seed: int,
) -> dict[str, dict[str, FloatArray]]:
    """Return (R,) values of each metric for each subgroup; draw r is the same for all."""
    blocks: dict[str, list[dict[str, FloatArray]]] = {name: [] for name in parts}
    for weights in _weights(scorer, list(members.values()), unit, draws, seed):
        for name, part in parts.items():
            blocks[name].append(part.metrics(weights[:, members[name]]))
    return {name: joined(own) for name, own in blocks.items()}


def _weights(
    scorer: Scorer, members: Sequence[IntArray], unit: IntArray, draws: int, seed: int
) -> Iterator[FloatArray]:
    """Yield blocks (r, n) of how often each draw contains each bag."""
    strata = scorer.strata(unit)
    within = np.zeros((len(strata), len(members)), dtype=bool)
    for column, rows in enumerate(members):
        within[unit[rows], column] = True
    if (within.sum(axis=1) == 1).all():
        strata = strata * len(members) + within.argmax(axis=1)
    kinds = [np.flatnonzero(strata == kind).astype(np.int64) for kind in np.unique(strata)]
    for taken in draw_counts(kinds, draws, seed, max(1, _CELLS_PER_BLOCK // scorer.count)):
        yield taken[:, unit].astype(np.float64)


def _gap(
    metric: str,
    subgroups: Mapping[str, Any],
    drawn: Mapping[str, Mapping[str, FloatArray]],
    level: float,
) -> dict[str, Any]:
    """Return the entry of a metric."""
    values = {
        name: float(found["metrics"][metric])
        for name, found in subgroups.items()
        if name != NO_VALUE and np.isfinite(found["metrics"][metric])
    }
    nothing = float("nan")
    if len(values) < 2:
        return {"gap": nothing, "largest": None, "smallest": None, "interval": (nothing, nothing)}
    largest, smallest = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
    if largest == smallest:  # all are equal
        smallest = list(values)[1]
    between = drawn[largest][metric] - drawn[smallest][metric]
    few = any(subgroups[name]["note"] for name in (largest, smallest))
    return {
        "gap": values[largest] - values[smallest],
        "largest": largest,
        "smallest": smallest,
        "interval": (nothing, nothing) if few else percentile_interval(between, level),
    }
