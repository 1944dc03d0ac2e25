"""The paired bootstrap of bags: against drawing bags by hand, and over simulated data sets."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from evaluation.mil.metrics import bag_table
from evaluation.mil.scores import evaluate_bags
from evaluation.statistics.bootstrap import bootstrap_intervals, bootstrap_weights
from evaluation.statistics.paired import compare_bags, paired_differences


def two_models(bags, seed=0):
    random = np.random.default_rng(seed)
    labels = (np.arange(bags) % 3 == 0).astype(int)
    common = random.normal(size=bags) + labels
    scores = [norm.cdf(common + random.normal(size=bags) * s).round(2) for s in (0.5, 1.0)]
    return labels, *scores


def literal(labels, first, second, task, thresholds, groups=(), draws=60, seed=3):
    """Take the bags of each draw and score both models on them."""
    weights = np.concatenate(
        list(bootstrap_weights(bag_table(labels, first, task), groups, draws, seed))
    ).astype(int)
    rows = []
    for row in weights:
        taken = np.repeat(np.arange(len(labels)), row)
        one = evaluate_bags(labels[taken], first[taken], task, thresholds[0])
        two = evaluate_bags(labels[taken], second[taken], task, thresholds[1])
        rows.append({name: one[name] - two[name] for name in one})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_intervals_are_those_of_bags_drawn_by_hand(task):
    labels, first, second = two_models(30)
    groups = ()
    if task == "binary":
        groups = tuple(f"patient {n // 2}" for n in range(30))
    else:
        random = np.random.default_rng(0)
        first, second = random.dirichlet(np.ones(3), size=(2, 30))
        labels = random.integers(3, size=30)
        if task == "multilabel":
            labels = random.integers(2, size=(30, 3))
    thresholds = (0.4, 0.6)
    options = {"draws": 60, "seed": 3}
    found = compare_bags(labels, first, second, task, thresholds, groups=groups, **options)
    drawn = literal(labels, first, second, task, thresholds, groups)
    one = evaluate_bags(labels, first, task, thresholds[0])
    two = evaluate_bags(labels, second, task, thresholds[1])
    assert list(found.differences) == list(one)
    for name, difference in found.differences.items():
        assert (difference.first, difference.second) == pytest.approx((one[name], two[name]))
        assert difference.value == pytest.approx(one[name] - two[name], abs=1e-12)
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        assert (difference.low, difference.high) == pytest.approx((low, high), abs=1e-12)
    for model, scores in enumerate((first, second)):
        alone = bootstrap_intervals(
            labels, scores, task, thresholds[model], groups=groups, **options
        )
        assert found.intervals[model] == alone


def differences_of(draws, level=0.95):
    zeros = {"m": np.zeros(len(draws))}
    return paired_differences(({"m": 0.0}, {"m": 0.0}), ({"m": np.array(draws)}, zeros), level)


def test_p_counts_draws_at_or_below_zero():
    def p(draws):
        return differences_of(draws).differences["m"].p

    assert p([1.0] * 99) == pytest.approx(2 / 100)  # none of 99 at or below 0
    assert p([1.0] * 97 + [0.0, -1.0]) == pytest.approx(2 * 3 / 100)
    assert p([-1.0] * 97 + [0.0, 1.0]) == pytest.approx(2 * 3 / 100)  # the other side
    assert p([0.0] * 99) == 1
    assert p([1.0] * 97 + [1e-15, -1.0]) == pytest.approx(2 * 3 / 100)  # 0 but for rounding
    assert p([1.0, -1.0] * 20) == 1  # 2 x 21 / 41 is cut
    assert p([1.0] * 9 + [np.nan] * 90) == pytest.approx(2 / 10)  # undefined draws do not count
    assert math.isnan(p([np.nan]))


def test_level_and_undefined_draws():
    draws = [*np.linspace(-1, 1, 201), np.nan]
    found = differences_of(draws, 0.8)
    assert found.differences["m"][3:5] == pytest.approx((-0.8, 0.8))
    assert found.intervals[0]["m"] == pytest.approx((-0.8, 0.8))
    assert np.isnan(differences_of([np.nan]).differences["m"][3:5]).all()
    with pytest.raises(ValueError, match="level"):
        differences_of(draws, 1.0)


def test_pairing_narrows_the_interval():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    scores = norm.cdf(random.normal(size=200) + labels)
    close = np.clip(scores + random.normal(size=200) * 0.02, 0, 1)
    found = compare_bags(labels, scores, close, "binary", draws=300)
    difference = found.differences["bag_auroc"]
    alone = found.intervals[0]["bag_auroc"]
    assert difference.high - difference.low < (alone[1] - alone[0]) / 5
    same = compare_bags(labels, scores, scores, "binary", draws=20).differences["bag_auroc"]
    assert same[2:] == (0, 0, 0, 1)


def test_one_class_gives_nan_and_wrong_draws_are_refused():
    found = compare_bags([1, 1], [0.2, 0.9], [0.9, 0.9], "binary", draws=20).differences
    assert np.isnan(found["bag_auroc"]).all()
    assert found["bag_accuracy"].value == -0.5
    with pytest.raises(ValueError, match="draws"):
        compare_bags([1, 0], [0.2, 0.9], [0.9, 0.9], "binary", draws=0)


@pytest.mark.slow
@pytest.mark.parametrize("shifts", [(1.2, 0.8), (1.0, 1.0)])
def test_intervals_cover_the_truth_and_reject_as_often_as_they_say(shifts):
    # Normal scores with correlation 1/2 between models: AUROC is Phi(shift / sqrt 2).
    sets, half = 500, 40
    random = np.random.default_rng(5)
    labels = np.repeat([0, 1], half)
    truth = norm.cdf(shifts[0] / math.sqrt(2)) - norm.cdf(shifts[1] / math.sqrt(2))
    covered = rejected = 0
    for number in range(sets):
        common, *own = random.normal(size=(3, 2 * half)) * math.sqrt(0.5)
        models = [norm.cdf(common + o + labels * s) for o, s in zip(own, shifts, strict=True)]
        found = compare_bags(labels, *models, "binary", draws=200, seed=number)
        difference = found.differences["bag_auroc"]
        covered += difference.low <= truth <= difference.high
        rejected += difference.p < 0.05
    # 500 sets tell .95 and .05 to within .03 (three standard deviations)
    assert 0.92 <= covered / sets <= 0.98
    if shifts[0] == shifts[1]:
        assert 0.02 <= rejected / sets <= 0.08
