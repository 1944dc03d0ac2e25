import numpy as np
import pytest

from datamodules.mil.npz_file import read_bag_file
from structures import DataProblems


@pytest.fixture
def write(tmp_path):
    """Return a function that writes three bags of 2, 1 and 3 instances, changed as told."""

    def written(**changes):
        arrays = {
            "X": np.arange(12, dtype=np.float32).reshape(6, 2),
            "bag_index": np.array([0, 0, 1, 2, 2, 2]),
            "y": np.array([0, 1, 1], dtype=np.int8),
        } | changes
        path = tmp_path / "bags.npz"
        np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
        return path

    return written


def test_a_good_file(write):
    bags = read_bag_file(write(groups=np.array(["p", "q", "p"])))
    assert bags.offsets.tolist() == [0, 2, 3, 6]
    assert bags.labels.tolist() == [0, 1, 1] and bags.labels.dtype == np.int64
    assert bags.features.dtype == np.float32 and bags.features[3].tolist() == [6, 7]
    assert bags.groups == ("p", "q", "p") and bags.published_folds is None
    rows = bags.rows_of(np.array([True, False, True]))
    assert rows.tolist() == [True, True, False, True, True, True]


def test_published_folds_win_over_made_ones(write):
    published = np.array([[0, 1, 0], [1, 0, 1]], dtype=np.int16)
    bags = read_bag_file(write(cv_fold=published))
    assert bags.folds(3, 1, seed=0).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"bags\.npz: the published folds have 2 repeats.* got 2"):
        bags.folds(3, 2, seed=0)
    made = read_bag_file(write()).folds(3, 0, seed=0)
    assert sorted(made.tolist()) == [0, 1, 2]


def test_sizes_and_facts(write):
    bags = read_bag_file(write())
    assert bags.sizes.tolist() == [2, 1, 3]
    assert (bags.num_classes, bags.task, bags.in_features) == (2, "binary", 2)
    three = read_bag_file(write(y=[0, 2, 1]))
    assert (three.num_classes, three.task) == (3, "multiclass")


def test_a_file_without_labels_needs_the_classes_from_elsewhere(write):
    bags = read_bag_file(write(y=None), classes=3)
    assert bags.labels.tolist() == [-1, -1, -1] and bags.offsets.tolist() == [0, 2, 3, 6]
    assert (bags.num_classes, bags.task) == (3, "multiclass")
    with pytest.raises(DataProblems, match="bag_index reaches 10; 6 instances fill fewer bags"):
        read_bag_file(write(y=None, bag_index=[0, 0, 1, 2, 2, 10]), classes=3)


def test_known_classes_may_be_absent_but_not_exceeded(write):
    assert read_bag_file(write(y=[0, 3, 3]), classes=4).num_classes == 4
    with pytest.raises(DataProblems, match="bag 1: label 3; use the classes 0 to 2"):
        read_bag_file(write(y=[0, 3, 0]), classes=3)


def test_skipping_leaves_faulty_bags_out_and_keeps_the_rest_as_it_was(write):
    features = np.arange(12.0).reshape(6, 2)
    features[2] = np.nan
    more = {"groups": np.array(["p", "q", "r"]), "cv_fold": np.array([[0, 0, 1], [1, 0, 0]])}
    bags = read_bag_file(write(X=features, **more), bad_data="skip")
    assert bags.numbers() == [0, 2] and bags.offsets.tolist() == [0, 2, 5]
    np.testing.assert_array_equal(bags.features, features[[0, 1, 3, 4, 5]])
    assert bags.labels.tolist() == [0, 1] and bags.groups == ("p", "r")
    assert bags.published_folds.tolist() == [[0, 1], [1, 0]]
    assert [(p.item, p.annotation) for p in bags.problems] == [(1, 2)]
    negative = read_bag_file(write(y=[0, -1, 1]), bad_data="skip")
    assert negative.numbers() == [0, 2] and negative.labels.tolist() == [0, 1]
    empty = read_bag_file(write(bag_index=[0, 0, 0, 2, 2, 2]), bad_data="skip")
    assert empty.numbers() == [0, 2] and empty.sizes.tolist() == [3, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {"y": None},
        {"bag_index": [0, 0, 2, 1, 2, 2]},
        {"y": [-1, -1, -1]},
        {"groups": np.array(["p", "p", "q"]), "cv_fold": np.array([[0, 1, 1]])},
    ],
)
def test_what_skipping_cannot_help(write, changes):
    with pytest.raises(DataProblems):
        read_bag_file(write(**changes), bad_data="skip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, r"array y is missing; the file has \['X', 'bag_index'\]"),
        ({"X": np.zeros(6)}, r"X must have 2 axes and be non-empty, got \(6,\)"),
        ({"X": np.full((6, 2), "a")}, "X must hold numbers"),
        ({"X": np.zeros((5, 2))}, "X has 5 instances but bag_index 6 entries"),
        ({"bag_index": [0, 0, 2, 1, 2, 2]}, "falls from 2 to 1 at row 3; sort"),
        ({"bag_index": [0, 0, 0, 2, 2, 2]}, "bag 1: no instances; remove the bag"),
        ({"bag_index": [0, 0, 1, 2, 2, 3]}, "names bags 3, but the bags are 0 to 2"),
        ({"bag_index": [0, 0, 1, 2, 2, 2.5]}, "whole numbers"),
        ({"bag_index": [0, 0, 1, 2, 2, np.nan]}, "whole numbers"),
        ({"y": [-1, 1, 1]}, r"bag 0: label -1; use the classes 0, 1"),
        ({"y": [0.0, 0.5, 1.0]}, r"bag 1: label 0\.5"),
        ({"y": [0.0, np.nan, 1.0]}, "bag 1: label nan"),
        ({"y": [0, 3, 3]}, "no bag has class 1, 2 of 0 to 3"),
        ({"y": [0, 2**40, 2**40]}, "no bag has class 1, 2, 3 of"),
        ({"cv_fold": np.array([[0, 1]])}, r"cv_fold must be integers \(repeats, 3\)"),
        ({"cv_fold": np.array([[0, 2, 2]])}, "repeat 0 of cv_fold has folds 0, 2"),
        ({"groups": np.array(["p"])}, r"groups has shape \(1,\); name the patient of each of 3"),
        (
            {"groups": np.array(["p", "q", "p"]), "cv_fold": np.array([[0, 1, 0], [0, 1, 1]])},
            "patient p: bags in folds 0, 1; put all bags of a patient into one fold",
        ),
    ],
)
def test_one_problem_each(write, changes, message):
    with pytest.raises(DataProblems, match=rf"bags\.npz.*{message}") as error:
        read_bag_file(write(**changes))
    assert len(error.value.problems) == 1


def test_bags_with_nan_are_named(write):
    features = np.zeros((6, 2))
    features[2, 1], features[4, 0], features[5, 0] = np.nan, np.inf, np.nan
    with pytest.raises(DataProblems) as error:
        read_bag_file(write(X=features))
    assert [(p.item, p.annotation, p.kind, p.part) for p in error.value.problems] == [
        (1, 2, "bag", "row"), (2, 4, "bag", "row"),
    ]  # fmt: skip
    message = "bag 1, row 2 (feature 1 is NaN, infinite or beyond float32); bag 2"
    assert message in str(error.value)


def test_all_problems_come_at_once(write):
    with pytest.raises(DataProblems) as error:
        read_bag_file(write(bag_index=[0, 0, 2, 0, 2, 2], y=[0, 1, -1]))
    reasons = [p.reason for p in error.value.problems]
    assert reasons == ["bag_index falls from 2 to 0 at row 3", "no instances", "label -1"]


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(DataProblems, match=r"absent\.npz: no such file"):
        read_bag_file(tmp_path / "absent.npz")
    broken = tmp_path / "broken.npz"
    broken.write_text("no zip")
    with pytest.raises(DataProblems, match=r"broken\.npz: not a readable npz file"):
        read_bag_file(broken)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, X=np.array([object()]))
    with pytest.raises(DataProblems, match=r"pickled\.npz: not a readable npz file"):
        read_bag_file(pickled)


SEVERAL = np.array([[0, 1], [1, 1], [0, 0]])


def test_bags_with_several_classes(write):
    bags = read_bag_file(write(y=SEVERAL))
    assert (bags.num_classes, bags.task) == (2, "multilabel")
    assert bags.labels.tolist() == SEVERAL.tolist() and bags.labels.dtype == np.int64
    assert bags.without(np.array([True, False, False])).labels.tolist() == [[1, 1], [0, 0]]
    assert read_bag_file(write(y=SEVERAL.astype(bool)), 2, task="multilabel").num_classes == 2
    bare = read_bag_file(write(y=None), classes=3, task="multilabel")
    assert bare.labels.tolist() == [[-1] * 3] * 3 and bare.task == "multilabel"


ONE_HOT = np.array([[1, 0], [0, 1], [0, 1]])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (ONE_HOT, {}, r"y has shape \(3, 2\) and every bag has exactly one class; store the class"),
        (SEVERAL[:, :1], {}, r"y has shape \(3, 1\), a single class; store it as \(3,\)"),
        (SEVERAL, {"task": "binary"}, "which does not fit the task binary; store one class per"),
        (SEVERAL, {"classes": 3}, r"y has shape \(3, 2\), but there are 3 classes"),
        ([0, 1, 1], {"task": "multilabel"}, "one class per bag, which does not fit the task mult"),
        (SEVERAL * 2, {}, r"bag 0 \(label 2 for class 1\); bag 1"),
        (SEVERAL / 4, {}, r"bag 0 \(label 0.25 for class 1\); bag 1 .*; use 1 if the bag has"),
        (SEVERAL * [0, 1], {}, "no bag has class 0 of 0 to 1; leave the column out"),
        (SEVERAL[None], {}, "y must have 1 or 2 axes"),
        (SEVERAL[:2], {}, "bag_index names bags 2, but the bags are 0 to 1"),
    ],
)
def test_several_classes_that_cannot_be(write, labels, options, message):
    with pytest.raises(DataProblems, match=message):
        read_bag_file(write(y=labels), **options)


def test_one_class_each_may_be_meant_and_a_class_may_lack_bags(write):
    assert read_bag_file(write(y=ONE_HOT), task="multilabel").task == "multilabel"
    assert read_bag_file(write(y=SEVERAL * [0, 1]), 2, task="multilabel").num_classes == 2


def test_instance_labels(write):
    bags = read_bag_file(write(instance_labels=[0, 1, -1, 0, 0, 1.0]))
    assert bags.instance_labels.tolist() == [0, 1, -1, 0, 0, 1]
    left = bags.without(np.array([False, True, False]))
    assert left.instance_labels.tolist() == [0, 1, 0, 0, 1]
    assert read_bag_file(write()).instance_labels is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0], r"instance_labels has shape \(3,\) and type int64 for 6 instances; store one"),
        (np.zeros((6, 2)), r"instance_labels has shape \(6, 2\)"),
        (["a"] * 6, "type <U1 for 6 instances"),
        (
            [0, 2, 0, 0, 3, 3],
            r"bag 0, row 1 \(instance_labels has 2\); bag 2, .*; use 1 for a witness",
        ),
        (np.array([0, 1, 255, 0, 0, 0], np.uint8), "bag 1, row 2: instance_labels has 255"),
        ([0, np.nan, 0, 0, 0, 0], "bag 0, row 1: instance_labels has nan"),
    ],
)
def test_instance_labels_that_are_none(write, labels, message):
    with pytest.raises(DataProblems, match=message):
        read_bag_file(write(instance_labels=labels))
