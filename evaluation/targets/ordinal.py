"""Metrics of predicted grades that use their order: quadratic kappa and the mean error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evaluation.targets.censoring import FloatArray


def quadratic_kappa(confusion: npt.ArrayLike) -> FloatArray:
    """Return Cohen's kappa with quadratic weights (Cohen 1968).

    1 - sum w O / sum w X with w = (i - j)^2, O the counts and X the product of their margins
    divided by their number.

    Args:
        confusion: (R, K, K) counts, rows by true grade, columns by said grade.

    Returns:
        (R,) at most 1; NaN where all true and said grades are one, or nothing was counted.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    step = np.arange(counts.shape[-1])
    weight = (step[:, None] - step) ** 2
    total = counts.sum(axis=(1, 2))
    margins = np.einsum("ri,rj->rij", counts.sum(axis=2), counts.sum(axis=1))
    expected = (weight * margins).sum(axis=(1, 2)) / np.maximum(total, 1)
    observed = (weight * counts).sum(axis=(1, 2))
    found = np.full(len(counts), np.nan)
    np.divide(observed, expected, out=found, where=expected > 0)
    return 1 - found


def grade_error(confusion: npt.ArrayLike) -> FloatArray:
    """Return the mean distance between true and said grade, in grades.

    Args:
        confusion: (R, K, K), see `quadratic_kappa`.

    Returns:
        (R,) at least 0; NaN where nothing was counted.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    step = np.arange(counts.shape[-1])
    total = counts.sum(axis=(1, 2))
    apart = (np.abs(step[:, None] - step) * counts).sum(axis=(1, 2))
    found = np.full(len(counts), np.nan)
    np.divide(apart, total, out=found, where=total > 0)
    return found
