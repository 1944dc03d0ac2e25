"""Patients from the predictions of their bags, against slow loops and scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.mil.collector import BagScores
from evaluation.mil.patients import pool_patients, pooled
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.mil.scores import evaluate_bags
from structures import DataProblems

FILE = Path("bags.csv")


def predictions(labels, probabilities, patients, task="binary"):
    count = len(labels)
    scores = BagScores(
        tuple(f"s{k}" for k in range(count)),
        np.arange(count),
        np.array(labels),
        np.array(probabilities, dtype=np.float64),
        tuple(patients),
        np.full(count, 0.5),
    )
    return BagPredictions(scores, task, files=(FILE,), threshold=0.3)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_binary_patients_are_scored_as_by_hand(pool):
    random = np.random.default_rng(0)
    patients = [f"p{k}" for k in random.integers(0, 20, 60)]
    labels = [int(p[1:]) % 2 for p in patients]
    scores = random.random(60).round(2)
    found = pool_patients(predictions(labels, scores, patients), pool)
    wanted = {}
    for patient, score in zip(patients, scores, strict=True):
        wanted.setdefault(patient, []).append(score)
    by_hand = [max(v) if pool == "max" else sum(v) / len(v) for v in wanted.values()]
    assert found.scores.bag_ids == found.scores.groups == tuple(wanted)
    np.testing.assert_allclose(found.scores.probabilities, by_hand)
    truth = [int(p[1:]) % 2 for p in wanted]
    assert found.scores.labels.tolist() == truth
    assert (found.threshold, found.files, found.scores.witness.size) == (0.3, (FILE,), 0)
    metrics = evaluate_bags(found.scores.labels, found.scores.probabilities, "binary")
    assert metrics["bag_auroc"] == pytest.approx(roc_auc_score(truth, by_hand))


def test_several_classes_are_pooled_in_their_order():
    """The largest class of independent draws is at least k as often as one of the bags says."""
    random = np.random.default_rng(1)
    table = random.dirichlet([1, 1, 1, 1], 5)
    np.testing.assert_allclose(pooled(table, "multiclass", "mean"), table.mean(axis=0))
    found = pooled(table, "multiclass", "max")
    assert found.sum() == pytest.approx(1) and (found >= 0).all()
    for k in range(4):  # a slow obvious version
        assert found[k:].sum() == pytest.approx(max(sum(row[k:]) for row in table.tolist()))
    two = random.dirichlet([1, 1], 6)
    np.testing.assert_allclose(
        pooled(two, "multiclass", "max")[1], pooled(two[:, 1], "binary", "max")
    )
    # A slide that is surely negative does not hide the positive one.
    both = np.array([[0.95, 0.05, 0.0], [0.1, 0.0, 0.9]])
    assert pooled(both, "multiclass", "max").argmax() == 2
    np.testing.assert_array_equal(pooled(both, "multilabel", "max"), both.max(axis=0))
    for task, alone in (
        ("multiclass", table[:1]),
        ("multilabel", table[:1]),
        ("binary", two[:1, 0]),
    ):
        for pool in ("mean", "max"):
            np.testing.assert_allclose(pooled(alone, task, pool), alone[0], rtol=1e-12)


def test_labels_that_differ():
    given = predictions([0, 1, 1, 0, 0], [0.2, 0.9, 0.8, 0.1, 0.3], list("ppqrr"))
    with pytest.raises(DataProblems, match=r"patient p: bags with labels 0 .s0., 1 .s1.; give all"):
        pool_patients(given)
    left = pool_patients(given, "mean", "skip")
    assert left.scores.bag_ids == ("q", "r") and [p.item for p in left.problems] == ["p"]
    assert pool_patients(given, "max").scores.labels.tolist() == [1, 1, 0]
    several = predictions([[1, 0], [0, 1], [0, 0]], np.eye(3)[:, :2], list("ppq"), "multilabel")
    assert pool_patients(several, "max").scores.labels.tolist() == [[1, 1], [0, 0]]
    with pytest.raises(DataProblems, match=r"patient p: bags with labels 0 1 .s1., 1 0 .s0."):
        pool_patients(several)
    with pytest.raises(DataProblems, match="no patient is left"):
        pool_patients(predictions([0, 1], [0.5, 0.5], "pp"), "mean", "skip")


def test_bags_without_patients():
    with pytest.raises(ValueError, match=r"bags\.csv: the patients of the bags are not known; add"):
        pool_patients(predictions([0, 1], [0.5, 0.5], ()))
