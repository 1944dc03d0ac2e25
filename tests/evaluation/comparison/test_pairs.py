import numpy as np
import pytest

from evaluation.comparison.pairs import pair_bags
from evaluation.mil.predictions_csv import read_bag_csv
from structures import DataProblems

A = "bag_id,label,score\na,1,0.9\nb,0,0.2\nc,1,0.7\nd,0,0.4\n"


def paired(tmp_path, first, second, policy="error"):
    files = tmp_path / "one.csv", tmp_path / "two.csv"
    for file, text in zip(files, (first, second), strict=True):
        file.write_text(text)
    return pair_bags(files, tuple(read_bag_csv(file) for file in files), policy)


def test_the_order_is_that_of_the_first(tmp_path):
    found = paired(tmp_path, A, "bag_id,label,score\nd,0,0.44\nb,0,0.22\na,1,0.99\nc,1,0.77\n")
    assert found.first.bag_ids == found.second.bag_ids == ("a", "b", "c", "d")
    assert found.second.probabilities.tolist() == [0.99, 0.22, 0.77, 0.44]
    assert found.second.labels.tolist() == [1, 0, 1, 0]
    assert found.task == "binary"
    assert found.problems == ()


def test_bags_of_one_file_only_are_all_listed(tmp_path):
    second = "bag_id,label,score\na,1,0.9\nb,0,0.2\nx,0,0.1\n"
    with pytest.raises(DataProblems) as error:
        paired(tmp_path, A, second)
    told = [(p.file.name, p.item) for p in error.value.problems]
    assert told == [("two.csv", "c"), ("two.csv", "d"), ("one.csv", "x")]
    assert "is only in" in str(error.value)
    assert "--bad-data skip" in str(error.value)
    found = paired(tmp_path, A, second, "skip")
    assert found.first.bag_ids == ("a", "b")
    assert found.first.probabilities.tolist() == [0.9, 0.2]
    assert len(found.problems) == 3
    with pytest.raises(ValueError, match="no bag in common"):
        paired(tmp_path, A, "bag_id,label,score\nx,0,0.1\n", "skip")


def test_labels_and_patients_that_disagree_are_refused_whatever_the_policy(tmp_path):
    second = A.replace("b,0", "b,1").replace("d,0", "d,1")
    for policy in ("error", "skip"):
        with pytest.raises(DataProblems) as error:
            paired(tmp_path, A, second, policy)
        assert [p.item for p in error.value.problems] == ["b", "d"]
        assert "label is 1, the other file says 0" in str(error.value)
    with_patients = A.replace("score\n", "score,patient_id\n").replace("0.9\n", "0.9,p\n")
    for value in ("0.2", "0.7", "0.4"):
        with_patients = with_patients.replace(f"{value}\n", f"{value},q\n")
    with pytest.raises(DataProblems, match="patient is p, the other file says q"):
        paired(tmp_path, with_patients, with_patients.replace("0.7,q", "0.7,p"), "skip")
    for pair in ((A, with_patients), (with_patients, A)):  # one file may tell them for both
        assert paired(tmp_path, *pair).groups == ("p", "q", "q", "q")


def test_several_labels_a_bag_are_compared_as_a_row(tmp_path):
    head = "bag_id,label_0,label_1,score_0,score_1\n"
    one, two = head + "a,1,0,0.9,0.1\nb,0,1,0.2,0.6\n", head + "b,0,1,0.3,0.5\na,1,0,0.8,0.2\n"
    found = paired(tmp_path, one, two)
    assert found.task == "multilabel"
    np.testing.assert_array_equal(found.second.probabilities, [[0.8, 0.2], [0.3, 0.5]])
    with pytest.raises(DataProblems, match=r"label is \[1, 1\], the other file says \[1, 0\]"):
        paired(tmp_path, one, two.replace("a,1,0", "a,1,1"))


def test_tasks_that_differ_are_refused(tmp_path):
    three = "bag_id,label,score_0,score_1,score_2\na,1,0.2,0.7,0.1\n"
    two = "bag_id,label,score_0,score_1\na,1,0.3,0.7\n"
    with pytest.raises(
        ValueError, match=r"one.csv: binary, but .*two.csv: multiclass of 3 classes"
    ):
        paired(tmp_path, A, three)
    with pytest.raises(ValueError, match="of 3 classes, but .* of 2 classes"):
        paired(tmp_path, three, two)


def test_classes_that_differ_in_name_or_order_are_refused(tmp_path):
    one = "bag_id,label,score_benign,score_tumour\na,1,0.2,0.8\nb,0,0.6,0.4\n"
    found = paired(tmp_path, one, one)
    assert found.classes == ("benign", "tumour")
    for names in ("score_tumour,score_benign", "score_benign,score_other"):
        two = one.replace("score_benign,score_tumour", names)
        with pytest.raises(ValueError, match=r"scores benign, tumour, but .*the same order"):
            paired(tmp_path, one, two)
    assert paired(tmp_path, A, A).classes == ()
    numbered = one.replace("score_benign,score_tumour", "score_0,score_1")
    for pair in ((one, numbered), (numbered, one)):  # numbers are the labels in order
        assert paired(tmp_path, *pair).classes == ("benign", "tumour")
    assert paired(tmp_path, numbered, numbered).classes == ("0", "1")
