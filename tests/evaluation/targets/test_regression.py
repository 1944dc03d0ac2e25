"""Metrics of values against scikit-learn, scipy and repeated bags."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from evaluation.targets.regression import METRICS, value_metrics

SETS = range(50)


def values(seed, count=40):
    """Values with ties, in places far from 0."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 12, count) * 1.5 + (1e6 if seed % 2 else 0)
    return truth, np.round(truth + random.normal(size=count) * 4, 0)


def one(truth, says):
    found = value_metrics(
        np.asarray(truth, float), np.asarray(says, float), np.ones((1, len(says)))
    )
    return {name: float(value[0]) for name, value in found.items()}


def slow(truth, says):
    return {
        "r2": r2_score(truth, says),
        "mae": mean_absolute_error(truth, says),
        "rmse": root_mean_squared_error(truth, says),
        "pearson": pearsonr(truth, says)[0],
        "spearman": spearmanr(truth, says)[0],
    }


@pytest.mark.parametrize("seed", SETS)
def test_equals_scikit_learn_and_scipy(seed):
    truth, says = values(seed)
    assert tuple(one(truth, says)) == METRICS
    assert one(truth, says) == pytest.approx(slow(truth, says), abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_weighted_samples_equal_repeated_bags(seed):
    truth, says = values(seed)
    weights = np.random.default_rng(9).multinomial(40, np.full(40, 1 / 40), size=6)
    found = value_metrics(truth, says, weights.astype(float))
    for draw, row in enumerate(weights):
        taken = np.repeat(np.arange(40), row)
        expected = slow(truth[taken], says[taken])
        assert {n: v[draw] for n, v in found.items()} == pytest.approx(expected, abs=1e-9)


def test_by_hand():
    found = one([1, 2, 3, 6], [2, 2, 2, 2])
    assert found["r2"] == pytest.approx(1 - (1 + 0 + 1 + 16) / (4 + 1 + 0 + 9))
    assert found["mae"] == 1.5 and found["rmse"] == pytest.approx(np.sqrt(18 / 4))
    assert one([1, 2, 3], [1, 2, 3])["r2"] == 1
    assert one([1, 2, 3], [10, 20, 90])["spearman"] == pytest.approx(1)
    assert one([1, 2, 3], [3, 2, 1])["pearson"] == pytest.approx(-1)


def undefined(truth, says):
    return [name for name, value in one(truth, says).items() if np.isnan(value)]


def test_undefined_values():
    assert undefined([0.1, 0.1, 0.1], [1, 2, 3]) == ["r2", "pearson", "spearman"]
    assert undefined([1, 2, 3], [0.1, 0.1, 0.1]) == ["pearson", "spearman"]
    assert undefined([1], [1]) == ["r2", "pearson", "spearman"]  # one bag
    assert undefined([], []) == list(METRICS)
    weights = np.array([[1.0, 1, 0], [0, 0, 0]])  # a draw of equal values, and one of none
    found = value_metrics(np.array([0.7, 0.7, 2]), np.array([1.0, 2, 3]), weights)
    assert np.isnan(found["r2"]).all() and np.isnan(found["pearson"]).all()
    # rounded moments of equal values are not exactly 0
    random = np.random.default_rng(0)
    equal = np.append(np.full(6, random.normal()), 9.1)
    draws = np.append(random.integers(1, 5, (200, 6)), np.zeros((200, 1)), axis=1)
    found_still = value_metrics(np.arange(7.0), equal, draws)
    assert np.isnan(found_still["pearson"]).all() and np.isnan(found_still["spearman"]).all()
    assert np.isnan(value_metrics(equal, np.arange(7.0), draws)["r2"]).all()
    assert found["mae"][0] == pytest.approx(0.8) and np.isnan(found["mae"][1])
