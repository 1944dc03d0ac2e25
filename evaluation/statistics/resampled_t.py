"""Corrected resampled t-test of two methods that were trained and tested on the same folds.

C. Nadeau and Y. Bengio, Inference for the generalization error, Machine Learning 52, 2003, section
4: with J differences d_j of test scores, of trainings on n1 and tests on n2 samples,

    t = mean(d) / sqrt((1 / J + n2 / n1) var(d)),

with var(d) the sample variance, follows Student's distribution with J - 1 degrees of freedom about.
The uncorrected test has 1 / J alone, as if trainings did not share samples, and finds differences
that are not there. For repeated k-fold cross-validation J is the number of folds of all repeats
(R. Bouckaert and E. Frank, PAKDD 2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_UNDEFINED = math.nan, math.nan, math.nan, math.nan  # interval, p and t


class ResampledTest(NamedTuple):
    """Result of the corrected resampled t-test; NaN if undefined.

    Attributes:
        first: mean of the first method over the folds.
        second: mean of the second method over the folds.
        value: first - second.
        low: lower end of the interval of the difference.
        high: upper end of the interval.
        p: two-sided p-value of no difference.
        t: the statistic.
        folds: number of folds in which both methods have a value.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    t: float
    folds: int


def corrected_resampled_t_test(
    first: Sequence[float], second: Sequence[float], test_to_train: float, level: float = 0.95
) -> ResampledTest:
    """Compare two methods by their scores in the same J folds.

    Folds in which a method has no value are left out (A454). With fewer than two folds, interval, t
    and p are NaN. If all differences are equal, the interval is that value and p is 1 where it is
    0, else NaN.

    Args:
        first: (J,) scores of the first method.
        second: (J,) scores of the second method.
        test_to_train: number of test samples divided by that of training samples, n2 / n1.
        level: coverage of the interval, in (0, 1).

    Raises:
        ValueError: lengths differ, the ratio is not positive, or a level outside (0, 1).
    """
    from scipy.stats import t as student

    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != two.shape or one.ndim != 1:
        raise ValueError(f"need as many scores of both methods, got {one.shape} and {two.shape}")
    if not test_to_train > 0 or not 0 < level < 1:
        raise ValueError(
            f"need test_to_train > 0 and a level in (0, 1), got {test_to_train} and {level}"
        )
    known = np.isfinite(one) & np.isfinite(two)
    one, two = one[known], two[known]
    count = int(known.sum())
    if not count:
        return ResampledTest(math.nan, math.nan, math.nan, *_UNDEFINED, 0)
    over = one - two
    means = float(one.mean()), float(two.mean()), float(over.mean())
    if count == 1:
        return ResampledTest(*means, *_UNDEFINED, 1)
    deviation = float(over.std(ddof=1))
    if deviation < 1e-12:
        same = abs(means[2]) < 1e-12
        p, t = (1.0, 0.0) if same else (math.nan, math.nan)
        return ResampledTest(*means, means[2], means[2], p, t, count)
    error = deviation * math.sqrt(1 / count + test_to_train)
    t = means[2] / error
    reach = float(student.ppf((1 + level) / 2, count - 1)) * error
    p = 2 * float(student.sf(abs(t), count - 1))
    return ResampledTest(*means, means[2] - reach, means[2] + reach, p, t, count)
