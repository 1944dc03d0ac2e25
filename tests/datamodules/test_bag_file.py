import numpy as np
import pytest

from datamodules.bag_file import read_bag_file


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
    with pytest.raises(ValueError, match=r"bags\.npz: cv_fold has 2 repeats.* got 2"):
        bags.folds(3, 2, seed=0)
    made = read_bag_file(write()).folds(3, 0, seed=0)
    assert sorted(made.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, r"array y is missing; the file has \['X', 'bag_index'\]"),
        ({"X": np.zeros(6)}, r"X must have 2 axes and be non-empty, got \(6,\)"),
        ({"X": np.full((6, 2), "a")}, "X must hold numbers"),
        ({"X": np.zeros((5, 2))}, "X has 5 instances but bag_index 6 entries"),
        ({"bag_index": [0, 0, 2, 1, 2, 2]}, "falls from 2 to 1 at row 3; sort"),
        ({"bag_index": [0, 0, 0, 2, 2, 2]}, "bags 1 have no instances; remove them"),
        ({"bag_index": [0, 0, 1, 2, 2, 3]}, "names bags 3, but y has bags 0 to 2"),
        ({"bag_index": [0, 0, 1, 2, 2, 2.5]}, "whole numbers"),
        ({"y": [-1, 1, 1]}, r"bags 0 have labels -1; use classes 0, 1"),
        ({"y": [0.0, 0.5, 1.0]}, r"bags 1 have labels 0\.5"),
        ({"y": [0, 3, 3]}, "no bag has class 1, 2 of 0 to 3"),
        ({"cv_fold": np.array([[0, 1]])}, r"cv_fold must be integers \(repeats, 3\)"),
        ({"cv_fold": np.array([[0, 2, 2]])}, "repeat 0 of cv_fold has folds 0, 2"),
        ({"groups": np.array(["p"])}, "groups must name each of 3 bags"),
    ],
)
def test_one_problem_each(write, changes, message):
    with pytest.raises(ValueError, match=rf"bags\.npz: 1 problem.*\n.*{message}"):
        read_bag_file(write(**changes))


def test_bags_with_nan_are_named(write):
    features = np.zeros((6, 2))
    features[2, 1], features[5, 0] = np.nan, np.inf
    message = r"bags 1, 2 hold NaN or infinite features \(first: row 2, feature 1\)"
    with pytest.raises(ValueError, match=message):
        read_bag_file(write(X=features))


def test_all_problems_come_at_once(write):
    with pytest.raises(ValueError, match="3 problem") as error:
        read_bag_file(write(bag_index=[0, 0, 2, 0, 2, 2], y=[0, 1, -1]))
    assert "falls from 2 to 0" in str(error.value)
    assert "bags 1 have no instances" in str(error.value)
    assert "bags 2 have labels -1" in str(error.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.npz: no such file"):
        read_bag_file(tmp_path / "absent.npz")
    broken = tmp_path / "broken.npz"
    broken.write_text("no zip")
    with pytest.raises(ValueError, match=r"broken\.npz: not a readable npz file"):
        read_bag_file(broken)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, X=np.array([object()]))
    with pytest.raises(ValueError, match=r"pickled\.npz: not a readable npz file"):
        read_bag_file(pickled)
