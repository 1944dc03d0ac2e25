"""Stratified resampling with replacement, and percentile intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def draw_counts(
    strata: Sequence[IntArray], draws: int, seed: int, per_block: int
) -> Iterator[IntArray]:
    """Yield how often each draw contains each unit.

    A draw takes as many units of each stratum as the stratum has, with replacement. Numbers are
    drawn block by block and within a block stratum by stratum: with several strata, the draws also
    depend on ``per_block``.

    Args:
        strata: numbers of the units of each stratum; together 0 to U - 1, each once.
        draws: number of draws R.
        seed: seed of the draws.
        per_block: draws in a block, at least 1.

    Yields:
        (r, U) counts; r sums to R over all blocks.
    """
    units = sum(members.size for members in strata)
    random = np.random.default_rng(seed)
    for start in range(0, draws, per_block):
        rows = min(per_block, draws - start)
        counts = np.zeros((rows, units), dtype=np.int64)
        for members in strata:
            taken = random.integers(members.size, size=(rows, members.size))
            cells = np.arange(rows)[:, None] * members.size + taken
            of_members = np.bincount(cells.ravel(), minlength=rows * members.size)
            counts[:, members] = of_members.reshape(rows, members.size)
        yield counts


def percentile_interval(values: FloatArray, level: float) -> tuple[float, float]:
    """Return the percentile interval of the finite values with coverage ``level``, NaN if empty."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
