import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from evaluation.mil.scores import (
    confusion_matrix,
    evaluate_bags,
    instance_auroc,
    pr_curve,
    roc_curve,
    witness_auroc,
    youden_threshold,
)

CLOSE = {"rel": 0, "abs": 1e-12}


def binary_case(seed, bags=60):
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=bags)
    scores = np.clip(0.3 * labels + random.random(bags) * 0.7, 0, 1).round(1)  # many ties
    return labels, scores


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_binary_metrics_equal_scikit_learn(seed, threshold):
    labels, scores = binary_case(seed)
    decided = scores >= threshold
    expected = {
        "bag_auroc": reference.roc_auc_score(labels, scores),
        "bag_auprc": reference.average_precision_score(labels, scores),
        "bag_accuracy": reference.accuracy_score(labels, decided),
        "bag_balanced_accuracy": reference.balanced_accuracy_score(labels, decided),
        "bag_f1": reference.f1_score(labels, decided, average="macro"),
        "bag_kappa": reference.cohen_kappa_score(labels, decided),
    }
    assert evaluate_bags(labels, scores, "binary", threshold) == pytest.approx(expected, **CLOSE)
    matrix = confusion_matrix(labels, scores, "binary", threshold)
    assert np.array_equal(matrix, reference.confusion_matrix(labels, decided))


def test_binary_metrics_by_hand():
    # decisions 1 1 0 0 against 1 0 1 0: chance agreement; pairs won: .9 > .6, .9 > .1, .4 > .1
    metrics = evaluate_bags([1, 0, 1, 0], [0.9, 0.6, 0.4, 0.1], "binary")
    assert metrics == pytest.approx(
        {
            "bag_auroc": 3 / 4,
            "bag_auprc": (1 + 2 / 3) / 2,
            "bag_accuracy": 0.5,
            "bag_balanced_accuracy": 0.5,
            "bag_f1": 0.5,
            "bag_kappa": 0.0,
        },
        **CLOSE,
    )


def test_multiclass_metrics_equal_scikit_learn():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=80)
    scores = random.random((80, 3)) + np.eye(3)[labels] * 0.4
    scores /= scores.sum(axis=1, keepdims=True)
    decided, onehot = scores.argmax(axis=1), np.eye(3)[labels]
    expected = {
        "bag_auroc": reference.roc_auc_score(labels, scores, multi_class="ovr", average="macro"),
        "bag_auprc": reference.average_precision_score(onehot, scores, average="macro"),
        "bag_accuracy": reference.accuracy_score(labels, decided),
        "bag_balanced_accuracy": reference.balanced_accuracy_score(labels, decided),
        "bag_f1": reference.f1_score(labels, decided, average="macro"),
        "bag_kappa": reference.cohen_kappa_score(labels, decided),
    }
    assert evaluate_bags(labels, scores, "multiclass") == pytest.approx(expected, **CLOSE)
    matrix = confusion_matrix(labels, scores, "multiclass")
    assert np.array_equal(matrix, reference.confusion_matrix(labels, decided))


def test_multilabel_metrics_equal_scikit_learn():
    random = np.random.default_rng(1)
    labels = random.integers(2, size=(50, 3))
    scores = np.clip(labels * 0.3 + random.random((50, 3)) * 0.7, 0, 1)
    decided = (scores >= 0.4).astype(int)
    columns = range(3)
    expected = {
        "bag_auroc": reference.roc_auc_score(labels, scores, average="macro"),
        "bag_auprc": reference.average_precision_score(labels, scores, average="macro"),
        "bag_accuracy": np.mean(labels == decided),
        "bag_balanced_accuracy": np.mean(
            [reference.balanced_accuracy_score(labels[:, c], decided[:, c]) for c in columns]
        ),
        "bag_f1": reference.f1_score(labels, decided, average="macro"),
        "bag_kappa": np.mean(
            [reference.cohen_kappa_score(labels[:, c], decided[:, c]) for c in columns]
        ),
    }
    assert evaluate_bags(labels, scores, "multilabel", 0.4) == pytest.approx(expected, **CLOSE)
    matrix = confusion_matrix(labels, scores, "multilabel", 0.4)
    assert np.array_equal(matrix, reference.multilabel_confusion_matrix(labels, decided))


def test_one_class_gives_nan_and_a_warning():
    with pytest.warns(UserWarning, match="bag_auroc, bag_auprc need bags of more than one class"):
        metrics = evaluate_bags([1, 1, 1], [0.9, 0.8, 0.2], "binary")
    assert math.isnan(metrics["bag_auroc"]) and math.isnan(metrics["bag_auprc"])
    assert metrics["bag_accuracy"] == pytest.approx(2 / 3)
    assert metrics["bag_balanced_accuracy"] == pytest.approx(2 / 3)  # the class present
    assert metrics["bag_kappa"] == 0
    with pytest.warns(UserWarning, match="bag_kappa"):
        assert math.isnan(evaluate_bags([0, 0], [0.1, 0.2], "binary")["bag_kappa"])


def test_a_class_without_bags_leaves_the_means():
    # classes 0 and 1 are ranked perfectly; class 2 never occurs
    scores = [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.6, 0.3]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = evaluate_bags([0, 0, 1, 1], scores, "multiclass")
    assert set(metrics.values()) == {1.0}


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.2], "same number of rows"),
        ([], [], "at least one"),
        ([0, 2], [0.1, 0.2], "bag 1 has the label 2"),
        ([0, 1], [0.1, float("nan")], "bag 1 has the probability nan"),
        ([0, 1], [-0.5, 0.2], r"bag 0 has the probability -0\.5"),
        ([0, 1], [[0.5, 0.5], [0.2, 0.8]], "binary task"),
    ],
)
def test_wrong_predictions_are_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        evaluate_bags(labels, scores, "binary")


def test_curves_equal_scikit_learn():
    labels, scores = binary_case(3)
    false, true, thresholds = reference.roc_curve(labels, scores, drop_intermediate=False)
    curve = roc_curve(labels, scores)
    np.testing.assert_allclose(curve.false_positive_rate, false, atol=1e-12)
    np.testing.assert_allclose(curve.true_positive_rate, true, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    precision, recall, thresholds = reference.precision_recall_curve(labels, scores)
    points = pr_curve(labels, scores)
    np.testing.assert_allclose(points.recall, recall[::-1], atol=1e-12)
    np.testing.assert_allclose(points.precision, precision[::-1], atol=1e-12)
    np.testing.assert_array_equal(points.thresholds[1:], thresholds[::-1])


def test_youden_by_hand():
    # from .6 on: 2 of 3 positives, 0 of 3 negatives (gain 2/3); from .3 on: 3 and 2 (gain 1/3)
    labels, scores = [1, 1, 0, 0, 1, 0], [0.9, 0.6, 0.5, 0.4, 0.3, 0.1]
    assert youden_threshold(labels, scores) == pytest.approx(0.55, **CLOSE)


def test_youden_takes_the_best_point_nearest_to_one_half():
    # gains: .9 -> 1/2, .4 -> 0, .35 -> 1/2; the middles .65 and .275 are as good
    assert youden_threshold([1, 0, 1, 0], [0.9, 0.4, 0.35, 0.2]) == pytest.approx(0.65, **CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_threshold_beats_youdens(seed):
    labels, scores = binary_case(seed)

    def gain(threshold):
        return evaluate_bags(labels, scores, "binary", threshold)["bag_balanced_accuracy"]

    best = gain(youden_threshold(labels, scores))
    assert best == pytest.approx(max(gain(t) for t in np.unique(scores)), **CLOSE)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([1, 1], [0.2, 0.4]), ([0, 1], [0.3, 0.3]), ([1, 0], [0.2, 0.4])],
    ids=["one class", "no spread", "reversed"],
)
def test_youden_without_information_is_one_half(labels, scores):
    with pytest.warns(UserWarning, match="using 0.5"):
        assert youden_threshold(labels, scores) == 0.5


def test_youden_between_neighbouring_floats_keeps_the_decision():
    low = 0.25
    high = float(np.nextafter(low, 1))
    assert youden_threshold([0, 1], [low, high]) == high


def test_witness_auroc_by_hand():
    # bag 0: witness .5 beats .3, ties .5, loses to none -> 1.5 / 2; bag 1: no witness;
    # bag 2: .1 loses to .9 -> 0; its unknown instance does not count
    attention = [0.5, 0.3, 0.5, 0.2, 0.8, 0.1, 0.9, 0.0]
    truth = [1, 0, 0, 0, 0, 1, 0, -1]
    assert instance_auroc(attention[:3], truth[:3]) == 0.75
    assert math.isnan(instance_auroc(attention[3:5], truth[3:5]))
    assert math.isnan(instance_auroc([0.5], [-1]))
    assert witness_auroc(attention, truth, [0, 3, 5, 8]) == pytest.approx(0.375, **CLOSE)
    assert math.isnan(witness_auroc([0.5, 0.5], [0, 0], [0, 2]))
    with pytest.raises(ValueError, match="both"):
        instance_auroc([[0.5], [0.5]], [0, 1])
