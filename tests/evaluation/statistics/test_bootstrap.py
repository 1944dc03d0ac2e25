import time

import numpy as np
import pytest

from evaluation.mil.metrics import all_metrics, bag_table
from evaluation.mil.scores import evaluate_bags
from evaluation.statistics.bootstrap import bootstrap_intervals, bootstrap_weights


def predictions(bags, seed=0, shift=0.2):
    random = np.random.default_rng(seed)
    labels = (np.arange(bags) % 3 == 0).astype(int)
    return labels, np.clip(random.random(bags) * (1 - shift) + shift * labels, 0, 1)


def drawn(table, groups=(), draws=8, seed=0):
    return np.concatenate(list(bootstrap_weights(table, groups, draws, seed)))


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_weighted_metrics_equal_metrics_of_the_drawn_bags(task):
    random = np.random.default_rng(0)
    labels, scores = predictions(40)
    if task == "multiclass":
        labels, scores = random.integers(3, size=40), random.dirichlet(np.ones(3), 40)
    if task == "multilabel":
        labels, scores = random.integers(2, size=(40, 2)), random.random((40, 2)).round(1)
    table = bag_table(labels, scores, task)
    weights = drawn(table)
    fast = all_metrics(table, 0.4, weights)
    for draw, row in enumerate(weights.astype(int)):
        taken = np.repeat(np.arange(40), row)
        slow = evaluate_bags(labels[taken], scores[taken], task, 0.4)
        assert {n: v[draw] for n, v in fast.items()} == pytest.approx(slow, abs=1e-12)


def test_intervals_are_percentiles_of_the_draws():
    labels, scores = predictions(50)
    table = bag_table(labels, scores, "binary")
    values = all_metrics(table, 0.5, drawn(table, draws=300, seed=3))
    intervals = bootstrap_intervals(labels, scores, "binary", draws=300, seed=3, level=0.9)
    for name, interval in intervals.items():
        assert interval == pytest.approx(tuple(np.quantile(values[name], [0.05, 0.95])), abs=1e-12)


def test_every_draw_keeps_the_class_counts():
    labels, scores = predictions(50)
    weights = drawn(bag_table(labels, scores, "binary"), draws=200)
    assert (weights.sum(axis=1) == 50).all()
    assert (weights[:, labels == 1].sum(axis=1) == labels.sum()).all()
    # each bag is drawn once on average, with the variance of a multinomial count
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.35)
    assert weights[:, labels == 1].var() == pytest.approx(1 - 1 / labels.sum(), abs=0.1)


def test_patients_are_drawn_as_a_whole():
    labels = np.array([0, 0, 1, 1, 1, 0, 1, 0])
    groups = ("a", "a", "b", "b", "c", "d", "d", "e")
    weights = drawn(bag_table(labels, np.full(8, 0.5), "binary"), groups, draws=100)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 2] == weights[:, 3]).all()
    assert (weights[:, 5] == 1).all() and (weights[:, 6] == 1).all()  # the only mixed patient
    assert (weights[:, 0] + weights[:, 7] == 2).all()  # negative patients
    assert (weights[:, 2] + weights[:, 4] == 2).all()  # positive patients


def test_the_seed_decides():
    labels, scores = predictions(40)
    first = bootstrap_intervals(labels, scores, "binary", draws=50, seed=1)
    assert bootstrap_intervals(labels, scores, "binary", draws=50, seed=1) == first
    assert bootstrap_intervals(labels, scores, "binary", draws=50, seed=2) != first


def test_intervals_cover_the_truth():
    # scores of positives are uniform on [.25, 1], of negatives on [0, .75]: AUROC 7/9
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    covered = 0
    for _ in range(200):
        scores = random.random(100) * 0.75 + 0.25 * labels
        low, high = bootstrap_intervals(labels, scores, "binary", draws=200)["bag_auroc"]
        covered += low <= 7 / 9 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_one_class_gives_nan():
    intervals = bootstrap_intervals([1, 1, 1], [0.9, 0.2, 0.7], "binary", draws=20)
    assert np.isnan(intervals["bag_auroc"]).all()
    assert np.isfinite(intervals["bag_accuracy"]).all()


def test_a_thousand_draws_of_500_bags_take_less_than_a_second():
    labels, scores = predictions(500)
    start = time.process_time()
    bootstrap_intervals(labels, scores, "binary")
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 0}, "draws"),
        ({"level": 1.0}, "level"),
        ({"groups": ("a",)}, "1 groups for 3 bags"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals([0, 1, 1], [0.1, 0.2, 0.3], "binary", **arguments)
