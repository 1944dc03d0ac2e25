"""The table of the predictions of a cross-validation."""

import numpy as np

from evaluation.mil.fold_predictions import FoldPredictions, write_fold_csv

FOLDS = np.array([[1, 0, 1], [0, 0, 1]])
THRESHOLDS = {(0, 0): 0.5, (0, 1): 0.25, (1, 0): 0.5, (1, 1): 0.5}


def lines(path, labels, probabilities, task, names, groups=()):
    found = FoldPredictions(
        ("a", "b", "c"),
        np.array(labels),
        FOLDS,
        np.array(probabilities),
        THRESHOLDS,
        task,
        names,
        groups,
    )
    write_fold_csv(path / "cv.csv", found)
    return (path / "cv.csv").read_text().splitlines()


def test_a_binary_task_has_a_score_and_the_threshold_of_its_fold(tmp_path):
    scores = [[0.3, 0.6, 0.2], [0.1, 0.5, 0.9]]
    assert lines(tmp_path, [1, 0, 1], scores, "binary", ("no", "yes"), ("p", "q", "r")) == [
        "repeat,fold,bag_id,label,score,patient_id,prediction,threshold",
        "0,0,b,0,0.6,q,1,0.5",
        "0,1,a,1,0.3,p,1,0.25",
        "0,1,c,1,0.2,r,0,0.25",
        "1,0,a,1,0.1,p,0,0.5",
        "1,0,b,0,0.5,q,1,0.5",
        "1,1,c,1,0.9,r,1,0.5",
    ]


def test_several_classes_have_a_score_each(tmp_path):
    scores = [[[0.2, 0.5, 0.3]] * 3, [[0.6, 0.3, 0.1]] * 3]
    found = lines(tmp_path, [2, 1, 0], scores, "multiclass", ("x", "y", "z"))
    assert found[0] == "repeat,fold,bag_id,label,score_x,score_y,score_z,prediction,threshold"
    assert found[1] == "0,0,b,1,0.2,0.5,0.3,1,"
    assert found[4] == "1,0,a,2,0.6,0.3,0.1,0,"


def test_several_labels_have_a_prediction_each(tmp_path):
    scores = [[[0.3, 0.5]] * 3, [[0.6, 0.3]] * 3]
    found = lines(tmp_path, [[0, 1], [1, 1], [1, 0]], scores, "multilabel", ("x", "y"))
    assert found[0] == (
        "repeat,fold,bag_id,label_x,label_y,score_x,score_y,prediction_x,prediction_y,threshold"
    )
    assert found[1] == "0,0,b,1,1,0.3,0.5,0,1,0.5"
    assert found[2] == "0,1,a,0,1,0.3,0.5,1,1,0.25"
