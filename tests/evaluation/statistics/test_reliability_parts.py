"""The consistency band against the draws it stands for, parts of the Brier score against loops."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import binom

from evaluation.statistics.calibration import calibration, reliability
from evaluation.statistics.reliability_parts import brier_parts, consistency_band


def calibrated(seed, count):
    """Labels drawn from their probabilities."""
    random = np.random.default_rng(seed)
    chance = expit(random.normal(size=count) * 1.5)
    return (random.random(count) < chance).astype(int), chance


def test_a_calibrated_simulation_is_inside_as_often_as_the_band_says():
    inside = total = 0
    for seed in range(100):
        labels, chance = calibrated(seed, 4000)
        found = reliability(chance, labels)
        band = consistency_band(found.size, found.predicted, level=0.9, seed=seed)
        total += 15
        inside += 15 - band.outside(found.observed)
    low, high = binom(total, 0.9).ppf([0.001, 0.999]) / total
    # Shares are discrete, so that the band of a bin with few predictions holds a little more.
    assert low <= inside / total <= high + 0.02


def test_overconfident_probabilities_are_outside():
    labels, chance = calibrated(0, 4000)
    logits = np.log(chance / (1 - chance))
    assert calibration(labels, chance, "binary")["band"]["outside"] <= 3
    assert calibration(labels, expit(2 * logits), "binary")["band"]["outside"] >= 10


def test_the_band_equals_one_of_drawn_forecasts_and_outcomes():
    labels, chance = calibrated(3, 1500)
    found = reliability(chance, labels)
    band = consistency_band(found.size, found.predicted, draws=20000)
    random = np.random.default_rng(0)
    shares = []
    for _ in range(3000):  # as the paper says it
        drawn = random.choice(chance, chance.size)
        shares.append(reliability(drawn, random.random(chance.size) < drawn).observed)
    slow = np.nanquantile(shares, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([band.low, band.high], slow, atol=0.03)
    assert np.abs(band.low - slow[0]).mean() < 0.006 and np.abs(band.high - slow[1]).mean() < 0.006


def test_empty_bins_and_certain_forecasts():
    found = reliability([1.0] * 5, [1] * 5)
    band = consistency_band(found.size, found.predicted)
    assert band.low[14] == band.high[14] == 1 and np.isnan(band.low[:14]).all()
    assert band.outside(found.observed) == 0
    assert consistency_band(found.size, found.predicted + 1e-12).high[14] == 1
    record = band.record(reliability([1.0] * 5, [1] * 4 + [0]).observed)
    assert record["outside"] == 1 and record["level"] == 0.95 and len(record["low"]) == 15


def slow_parts(chance, true):
    """Murphy's parts and the two within bins (Stephenson et al. 2008), prediction by prediction."""
    places = np.array([min(int(15 * p), 14) for p in chance])
    apart = separate = variance = covariance = 0.0
    for p, y, b in zip(chance, true, places, strict=True):
        own = places == b
        apart += (chance[own].mean() - true[own].mean()) ** 2
        separate += (true[own].mean() - true.mean()) ** 2
        variance += (p - chance[own].mean()) ** 2
        covariance += 2 * (y - true[own].mean()) * (p - chance[own].mean())
    n = len(chance)
    return apart / n, separate / n, true.mean() * (1 - true.mean()), (variance - covariance) / n


@pytest.mark.parametrize("seed", range(3))
def test_parts_equal_a_loop_and_add_up_to_the_brier_score(seed):
    labels, chance = calibrated(seed, 200)
    found = calibration(labels, chance, "binary")
    parts = found["brier_parts"]
    apart, separate, uncertainty, within = slow_parts(chance, labels)
    assert parts["reliability"] == pytest.approx(apart, abs=1e-12)
    assert parts["resolution"] + parts["within_bin"] == pytest.approx(separate, abs=1e-12)
    assert parts["uncertainty"] == pytest.approx(uncertainty, abs=1e-12)
    assert parts["within_bin"] == pytest.approx(within, abs=1e-12)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
    assert total == pytest.approx(found["brier"], abs=1e-12)


def test_parts_of_several_classes_and_of_labels_add_up():
    random = np.random.default_rng(0)
    chance = softmax(random.normal(size=(80, 3)) * 2, axis=1)
    for labels, task in ((random.integers(0, 3, 80), "multiclass"),
                         (random.integers(0, 2, (80, 3)), "multilabel")):  # fmt: skip
        found = calibration(labels, chance, task)
        parts = found["brier_parts"]
        total = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
        assert total == pytest.approx(found["brier"], abs=1e-12)


def test_forecasts_that_are_equal_within_bins_have_the_parts_of_murphy():
    chance = np.repeat([0.1, 0.5, 0.9], [10, 10, 20])
    true = np.concatenate([np.arange(10) < 2, np.arange(10) < 5, np.arange(20) < 15]).astype(float)
    parts = brier_parts(chance, true, np.repeat([0, 1, 2], [10, 10, 20]))
    assert parts.within_bin == pytest.approx(0, abs=1e-15)
    assert parts.reliability == pytest.approx((10 * 0.1**2 + 20 * 0.15**2) / 40)
    mean = 22 / 40
    assert parts.resolution == pytest.approx(
        (10 * (0.2 - mean) ** 2 + 10 * (0.5 - mean) ** 2 + 20 * (0.75 - mean) ** 2) / 40
    )
