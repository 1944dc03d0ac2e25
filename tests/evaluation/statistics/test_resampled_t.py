"""The corrected resampled t-test, by hand and in simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics.resampled_t import corrected_resampled_t_test


def test_by_hand():
    # d = .1, .2, .3, .0: mean .15, variance (.05^2 + .05^2 + .15^2 + .15^2) / 3 = .05 / 3.
    first, second = [0.8, 0.9, 0.9, 0.7], [0.7, 0.7, 0.6, 0.7]
    found = corrected_resampled_t_test(first, second, 1 / 3)
    error = math.sqrt((1 / 4 + 1 / 3) * 0.05 / 3)
    assert found.value == pytest.approx(0.15)
    assert (found.first, found.second) == (pytest.approx(0.825), pytest.approx(0.675))
    assert found.t == pytest.approx(0.15 / error)
    assert found.p == pytest.approx(2 * stats.t.sf(0.15 / error, 3))
    assert found.high - found.low == pytest.approx(2 * 3.182446 * error)
    uncorrected = stats.ttest_rel(first, second)
    without = corrected_resampled_t_test(first, second, 1e-12)
    assert without.p == pytest.approx(uncorrected.pvalue)
    assert found.p > uncorrected.pvalue
    turned = corrected_resampled_t_test(second, first, 1 / 3)
    assert (turned.value, turned.t, turned.p) == (-found.value, -found.t, found.p)


def test_folds_without_a_value_are_left_out():
    nan = float("nan")
    found = corrected_resampled_t_test([0.5, nan, 0.7, 0.4], [0.4, 0.3, nan, 0.1], 0.5)
    assert found == corrected_resampled_t_test([0.5, 0.4], [0.4, 0.1], 0.5)
    assert found.folds == 2
    assert corrected_resampled_t_test([nan], [0.5], 0.5).folds == 0
    one = corrected_resampled_t_test([0.5], [0.25], 0.5)
    assert (one.value, one.folds) == (0.25, 1)
    assert math.isnan(one.p)


def test_equal_differences():
    same = corrected_resampled_t_test([0.5, 0.6], [0.5, 0.6], 0.5)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert math.isnan(corrected_resampled_t_test([0.5, 0.6], [0.4, 0.5], 0.5).p)


def test_it_rejects_rarely_where_methods_are_equal():
    # Two predictors that guess 40 labels at random, in 5 x 8 folds. All repeats have the same bags,
    # so the differences depend on each other, and the uncorrected test rejects too often.
    random = np.random.default_rng(0)
    corrected, uncorrected = [], []
    for _ in range(300):
        over = random.integers(0, 2, 40) - random.integers(0, 2, 40).astype(float)
        parts = [random.permutation(40).reshape(8, 5) for _ in range(5)]
        values = np.concatenate([over[part].mean(axis=1) for part in parts])
        corrected.append(corrected_resampled_t_test(values, np.zeros(40), 1 / 7).p < 0.05)
        uncorrected.append(stats.ttest_1samp(values, 0).pvalue < 0.05)
    assert np.mean(uncorrected) > 0.2
    assert np.mean(corrected) < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1], [0.1, 0.2], 0.5), "as many scores"),
        (([0.1], [0.1], 0.0), "test_to_train > 0"),
        (([0.1], [0.1], 0.5, 1.0), "level"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        corrected_resampled_t_test(*arguments)
