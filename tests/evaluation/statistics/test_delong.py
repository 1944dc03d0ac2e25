"""DeLong's variance against sums over all pairs, and against what data sets really do."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from evaluation.mil.metrics import auroc
from evaluation.statistics.delong import areas, delong_test


def by_pairs(positive, scores):
    """The definition of 1988 word by word: O(m n) comparisons, sums of products."""
    above = [[s for s, p in zip(row, positive, strict=True) if p] for row in scores]
    below = [[s for s, p in zip(row, positive, strict=True) if not p] for row in scores]
    m, n, models = len(above[0]), len(below[0]), len(scores)

    def psi(x, y):
        return 1.0 if y < x else 0.5 if y == x else 0.0

    values = [sum(psi(x, y) for x in above[r] for y in below[r]) / (m * n) for r in range(models)]
    v10 = [[sum(psi(x, y) for y in below[r]) / n for x in above[r]] for r in range(models)]
    v01 = [[sum(psi(x, y) for x in above[r]) / m for y in below[r]] for r in range(models)]
    covariance = np.zeros((models, models))
    for r in range(models):
        for s in range(models):
            s10 = sum((v10[r][i] - values[r]) * (v10[s][i] - values[s]) for i in range(m))
            s01 = sum((v01[r][j] - values[r]) * (v01[s][j] - values[s]) for j in range(n))
            covariance[r, s] = s10 / (m - 1) / m + s01 / (n - 1) / n
    return np.array(values), covariance


def with_ties(seed, models=3):
    random = np.random.default_rng(seed)
    positive = random.permutation(np.arange(30) < random.integers(2, 28))
    digits = random.integers(0, 4)
    common = random.normal(size=30)
    noise = random.normal(size=(models, 30))
    return positive, (noise + common + positive).round(digits)


@pytest.mark.parametrize("seed", range(8))
def test_values_and_covariance_are_those_of_all_pairs(seed):
    positive, scores = with_ties(seed)
    found = areas(positive, scores)
    values, covariance = by_pairs(positive, scores)
    np.testing.assert_allclose(found.values, values, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.covariance, covariance, rtol=0, atol=1e-14)
    ours = [auroc(positive, row, np.ones((1, 30)))[0] for row in scores]
    np.testing.assert_allclose(found.values, ours, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_the_test_is_that_of_the_contrast(seed):
    positive, scores = with_ties(seed, models=2)
    values, covariance = by_pairs(positive, scores)
    contrast = np.array([1.0, -1.0])
    error = math.sqrt(contrast @ covariance @ contrast)
    z = (values[0] - values[1]) / error
    found = delong_test(positive, *scores, level=0.9)
    assert (found.first, found.second) == pytest.approx(tuple(values), abs=1e-13)
    assert found.value == pytest.approx(values[0] - values[1], abs=1e-13)
    assert found.standard_error == pytest.approx(error, rel=1e-12)
    assert found.z == pytest.approx(z, rel=1e-10)
    assert found.p == pytest.approx(2 * norm.sf(abs(z)), rel=1e-10)
    reach = norm.ppf(0.95) * error
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach))
    assert found.note == ""
    swapped = delong_test(positive, scores[1], scores[0], level=0.9)
    assert (swapped.value, swapped.z, swapped.p) == pytest.approx((-found.value, -found.z, found.p))


def test_four_bags_by_hand():
    # Positives .9, .4; negatives .6, .1: pairs right 1, 1, 0, 1. Components of the positives 1 and
    # 1/2 (variance 1/8), of the negatives 1/2 and 1 (1/8): variance 1/16 + 1/16 = 1/8.
    positive = [True, True, False, False]
    found = areas(positive, [[0.9, 0.4, 0.6, 0.1], [0.5, 0.5, 0.5, 0.5]])
    assert found.values.tolist() == [0.75, 0.5]
    np.testing.assert_allclose(found.covariance, [[1 / 8, 0], [0, 0]], rtol=0, atol=1e-16)
    test = delong_test(positive, [0.9, 0.4, 0.6, 0.1], [0.5] * 4)
    assert (test.value, test.standard_error) == pytest.approx((0.25, math.sqrt(1 / 8)))
    assert test.p == pytest.approx(2 * norm.sf(0.25 / math.sqrt(1 / 8)))


@pytest.mark.parametrize(
    ("labels", "first", "second", "words"),
    [
        ([0, 0, 0], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1], "no positive bag"),
        ([1, 1, 1], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1], "no negative bag"),
    ],
)
def test_one_class_has_no_area(labels, first, second, words):
    found = delong_test(labels, first, second)
    assert words in found.note
    assert np.isnan(found[:8]).all()
    assert np.isnan(areas(labels, [first]).values).all()


def test_a_single_bag_of_a_class_has_an_area_but_no_variance():
    for labels, words in (([1, 0, 0], "one positive bag"), ([1, 1, 0], "one negative bag")):
        found = delong_test(labels, [0.9, 0.5, 0.1], [0.1, 0.5, 0.9])
        assert (found.first, found.second, found.value) == (1, 0, 1)
        assert delong_test(labels, [0.1, 0.5, 0.9], [0.5] * 3).value == -0.5
        assert np.isnan(found[3:8]).all()
        assert words in found.note
        assert np.isnan(areas(labels, [[0.9, 0.5, 0.1]]).covariance).all()


def test_zero_variance_is_told_in_words():
    labels = [1, 1, 0, 0]
    perfect, mixed, inverse = [0.9, 0.8, 0.2, 0.1], [0.9, 0.3, 0.4, 0.1], [0.1, 0.2, 0.8, 0.9]
    found = delong_test(labels, perfect, [0.7, 0.6, 0.5, 0.4])
    assert "both separate the classes completely" in found.note
    assert (found.value, found.standard_error) == (0, 0)
    assert np.isnan(found[4:8]).all()
    assert "equally" in delong_test(labels, mixed, [0.8, 0.3, 0.6, 0.2]).note
    halves = [0.9, 0.1, 0.5, 0.4]  # components of 1 and 0, but no complete separation
    assert "equally" in delong_test(labels, halves, halves).note
    assert "equally" not in delong_test(labels, mixed, [0.3, 0.8, 0.6, 0.2]).note
    assert "same difference" in delong_test(labels, perfect, inverse).note
    one = delong_test(labels, perfect, mixed)
    assert "first separates the classes completely" in one.note
    assert one.p < 1
    assert (one.low, one.high) == pytest.approx(
        (one.value - 1.96 * one.standard_error, one.value + 1.96 * one.standard_error), abs=1e-4
    )
    assert "second separates" in delong_test(labels, mixed, inverse).note


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not match"):
        areas([1, 0], [[0.1, 0.2, 0.3]])
    with pytest.raises(ValueError, match="finite"):
        delong_test([1, 0, 0], [0.1, np.nan, 0.3], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="level"):
        delong_test([1, 0, 0], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], level=1.0)


def binormal(random, sets, m, n, shifts, correlation):
    """Scores (sets, 2, m + n): normal, those of positives shifted, the models correlated."""
    common = random.normal(size=(sets, 1, m + n)) * math.sqrt(correlation)
    own = random.normal(size=(sets, 2, m + n)) * math.sqrt(1 - correlation)
    positive = np.arange(m + n) < m
    return positive, common + own + positive * np.array(shifts)[None, :, None]


@pytest.mark.parametrize("shifts", [(1.2, 0.8), (1.0, 1.0)])
def test_simulated_data_sets_vary_as_the_standard_error_says(shifts):
    sets = 1500
    random = np.random.default_rng(1)
    positive, scores = binormal(random, sets, 40, 60, shifts, correlation=0.5)
    truth = norm.cdf(shifts[0] / math.sqrt(2)) - norm.cdf(shifts[1] / math.sqrt(2))
    tests = [delong_test(positive, *pair) for pair in scores]
    values = np.array([test.value for test in tests])
    # The mean of 1 500 standard errors is sure to 1 %, their standard deviation to 2 %.
    errors = np.array([test.standard_error for test in tests])
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / math.sqrt(sets))
    assert math.sqrt((errors**2).mean()) == pytest.approx(values.std(ddof=1), rel=0.06)
    covered = np.mean([test.low <= truth <= test.high for test in tests])
    assert 0.93 <= covered <= 0.97
    rejected = np.mean([test.p < 0.05 for test in tests])
    if shifts[0] == shifts[1]:
        assert 0.03 <= rejected <= 0.07
    else:
        assert rejected > 0.15  # there is a difference, and it is seen more often than by chance
