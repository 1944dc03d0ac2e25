import numpy as np
import pytest

from evaluation.mil.cross_validation import summarise_folds

LABELS = [0, 1, 0, 1]
SCORES = np.array([[0.1, 0.9, 0.6, 0.7], [0.2, 0.4, 0.1, 0.8]])
FOLDS = np.array([[0, 0, 1, 1], [0, 1, 0, 1]])


def test_metrics_by_hand():
    # repeat 0: fold 0 right twice, fold 1 once; repeat 1: fold 0 negatives right, fold 1 half
    summary = summarise_folds(LABELS, SCORES, FOLDS, "binary")
    accuracy = summary["bag_accuracy"]
    assert accuracy["folds"] == [1.0, 0.5, 1.0, 0.5]
    assert accuracy["mean"] == 0.75 and accuracy["std"] == 0.25


def test_undefined_folds_do_not_enter_the_mean():
    auroc = summarise_folds(LABELS, SCORES, FOLDS, "binary")["bag_auroc"]
    assert auroc["folds"][:2] == [1.0, 1.0]
    assert np.isnan(auroc["folds"][2:]).all()  # folds of one class
    assert auroc["mean"] == 1.0 and auroc["std"] == 0.0


def test_each_fold_has_its_own_threshold():
    thresholds = {(0, 0): 0.5, (0, 1): 0.65, (1, 0): 0.15, (1, 1): 0.5}
    accuracy = summarise_folds(LABELS, SCORES, FOLDS, "binary", thresholds)["bag_accuracy"]
    assert accuracy["folds"] == [1.0, 1.0, 0.5, 0.5]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="folds"):
        summarise_folds(LABELS, SCORES[:1], FOLDS, "binary")
