"""DeLong's test for the difference of two AUROCs on the same bags.

DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
characteristic curves: a nonparametric approach" (Biometrics 1988), with the ranks of Sun and Xu,
"Fast implementation of DeLong's algorithm" (IEEE Signal Processing Letters 2014).

There are m positives and n negatives, and psi is 1, 1/2 or 0 if a positive scores above, equal to
or below a negative. The component of positive i is the mean of psi over the negatives, and the
component of negative j is the mean of psi over the positives. The area is the mean of either kind
of components. The covariance of the areas of several models is cov(components of positives) / m +
cov(components of negatives) / n (with m - 1 and n - 1 in the covariances). Sums over pairs are
differences of mid-ranks among all bags and among the bags of the same class.

Bags must be independent of one another; several bags of a patient are not. If the variance is zero,
there is no test (A186).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.mil.metrics import BoolArray, FloatArray

_NO_VARIANCE = 1e-24  # far below the variance from one differing pair of bags, far above rounding


class Areas(NamedTuple):
    """AUROC of M models on the same bags, with the covariance of the estimates.

    Attributes:
        values: (M,) in [0, 1]; NaN without both classes.
        covariance: (M, M); NaN with fewer than two bags of a class.
    """

    values: FloatArray
    covariance: FloatArray


class DeLongTest(NamedTuple):
    """Result of DeLong's test; undefined values are NaN, and ``note`` gives the reason.

    Attributes:
        first: AUROC of the first model.
        second: AUROC of the second model.
        value: first - second.
        standard_error: standard error of the difference.
        low: lower end of the normal interval of the difference.
        high: upper end of the interval.
        z: difference divided by its standard error.
        p: two-sided p-value of no difference.
        note: remark for the reader, or empty.
    """

    first: float
    second: float
    value: float
    standard_error: float
    low: float
    high: float
    z: float
    p: float
    note: str = ""


def areas(positive: npt.ArrayLike, scores: npt.ArrayLike) -> Areas:
    """Return the AUROCs of several models with DeLong's covariance.

    Args:
        positive: (B,) bool, True for positive bags.
        scores: (M, B), one row per model, finite.

    Raises:
        ValueError: the shapes do not match, or a score is not finite.
    """
    above, below = _components(positive, scores)
    m, n = above.shape[1], below.shape[1]
    models = len(above)
    if m == 0 or n == 0:
        return Areas(np.full(models, np.nan), np.full((models, models), np.nan))
    values: FloatArray = below.mean(axis=1)
    if m == 1 or n == 1:
        return Areas(values, np.full((models, models), np.nan))
    return Areas(values, _covariance(above) / m + _covariance(below) / n)


def delong_test(
    positive: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, level: float = 0.95
) -> DeLongTest:
    """Test whether two models rank the same bags equally well.

    Args:
        positive: (B,) bool, True for positive bags.
        first: (B,) scores of the first model.
        second: (B,) scores of the second model.
        level: coverage of the interval, in (0, 1).

    Raises:
        ValueError: the shapes do not match, a score is not finite, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"need a level in (0, 1), got {level}")
    above, below = _components(positive, np.stack([np.asarray(first), np.asarray(second)]))
    m, n = above.shape[1], below.shape[1]
    if m == 0 or n == 0:
        kind = "positive" if m == 0 else "negative"
        return _unreported(math.nan, math.nan, math.nan, f"no {kind} bag, so there is no AUROC")
    one, two = (float(v) for v in below.mean(axis=1))
    if m == 1 or n == 1:
        kind = "positive" if m == 1 else "negative"
        note = f"with one {kind} bag the variance cannot be estimated"
        return _unreported(one, two, math.nan, note)
    variance = float((above[0] - above[1]).var(ddof=1) / m + (below[0] - below[1]).var(ddof=1) / n)
    if variance <= _NO_VARIANCE:
        return _unreported(one, two, 0.0, _why_no_variance(above, below))
    error = math.sqrt(variance)
    z = (one - two) / error
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    p = math.erfc(abs(z) / math.sqrt(2))  # twice the upper tail, without its cancellation
    note = ""
    if {one, two} & {0.0, 1.0}:
        which = "first" if one in (0.0, 1.0) else "second"
        note = f"the {which} separates the classes completely, so its estimated variance is zero"
    return DeLongTest(one, two, one - two, error, one - two - reach, one - two + reach, z, p, note)


def _components(positive: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return (M, m) shares of negatives below each positive, (M, n) of positives above."""
    from scipy.stats import rankdata

    truth: BoolArray = np.asarray(positive).astype(bool)
    table = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or table.ndim != 2 or table.shape[1] != truth.size:
        raise ValueError(f"labels {truth.shape} do not match scores (models, bags) {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("scores must be finite")
    m, n = int(truth.sum()), int((~truth).sum())
    among_all = rankdata(table, axis=1)
    # A rank is 1 + the bags below + half of the other equal ones; subtract those of the own class.
    over = among_all[:, truth] - rankdata(table[:, truth], axis=1)
    under = among_all[:, ~truth] - rankdata(table[:, ~truth], axis=1)
    return over / max(n, 1), 1 - under / max(m, 1)


def _covariance(components: FloatArray) -> FloatArray:
    return np.atleast_2d(np.cov(components, ddof=1))


def _unreported(first: float, second: float, standard_error: float, note: str) -> DeLongTest:
    nan = math.nan
    return DeLongTest(first, second, first - second, standard_error, nan, nan, nan, nan, note)


def _why_no_variance(above: FloatArray, below: FloatArray) -> str:
    if np.array_equal(above[0], above[1]) and np.array_equal(below[0], below[1]):
        if set(above.mean(axis=1).tolist()) <= {0.0, 1.0}:
            return "both separate the classes completely, which DeLong's test cannot judge"
        return "both rank every positive bag equally among the negatives, so there is no difference"
    return "every bag has the same difference, so the variance is zero and there is no test"
