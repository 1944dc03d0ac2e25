"""Sets that share patients or bags are recognised; nothing names anybody in a checkpoint."""

import numpy as np
import pytest

from datamodules.mil.feature_set import FeatureSet
from datamodules.mil.npz_file import read_bag_file
from datamodules.mil.overlap.members import Members, members_of


def bags_of(path, features, groups=None):
    sizes = [len(part) for part in features]
    named = {} if groups is None else {"groups": np.array(groups)}
    index = np.repeat(np.arange(len(sizes)), sizes)
    np.savez(
        path, X=np.concatenate(features), bag_index=index, y=np.arange(len(sizes)) % 2, **named
    )
    return read_bag_file(path)


def test_patients_decide_where_both_know_them():
    training = Members(("ann", "bob"), {"s1": "s1", "s2": "s2"}).record()
    assert set(training) == {"patients", "bags"}
    assert not any(name in str(training) for name in ("ann", "bob", "s1"))
    assert all(len(code) == 16 for codes in training.values() for code in codes)
    assert Members(("cyd", "bob"), {"s9": "s9"}).shared_with(training) == ("bob",)
    assert Members(("cyd",), {"s1": "s1"}).shared_with(training) == ()  # ids of another hospital
    assert Members((), {"s1": "s1", "s9": "s9"}).shared_with(training) == ("s1",)
    assert Members(("bob",), {"s2": "s2"}).shared_with({"bags": training["bags"]}) == ("s2",)
    assert Members(("ann",), {}).shared_with({}) == ()


def test_the_message_names_them_and_the_remedy():
    training = Members(tuple(f"p{n}" for n in range(9))).record()
    with pytest.raises(ValueError, match="T.csv: 7 patients are also among the training") as error:
        Members(tuple(f"p{n}" for n in range(2, 12))).check_apart(training, "T.csv", "the training")
    assert "p2, p3, p4, p5, p6 and 2 more." in str(error.value)
    assert "--allow-overlap" in str(error.value)
    Members(("p10",)).check_apart(training, "T.csv", "the training")


def test_bags_of_npz_files_are_known_by_their_instances(tmp_path):
    random = np.random.default_rng(0)
    parts = [random.normal(size=(n, 3)).astype(np.float32) for n in (2, 1, 3, 2)]
    first = bags_of(tmp_path / "a.npz", parts)
    other = bags_of(tmp_path / "b.npz", [parts[3], parts[0] + 1, parts[1]])
    (tmp_path / "c").mkdir()
    same_name = bags_of(tmp_path / "c" / "a.npz", [part + 2 for part in parts])
    training = members_of(first, [0, 1, 3]).record()
    assert members_of(other, range(3)).shared_with(training) == ("b_0", "b_2")
    assert members_of(other, [1]).shared_with(training) == ()
    assert members_of(first, [2]).shared_with(training) == ()
    assert members_of(same_name, range(4)).shared_with(training) == ()
    with pytest.raises(ValueError, match="b_0, b_2. Scores .*: by their instances they are the"):
        members_of(other, range(3)).check_apart(training, "b.npz", "the others")
    grouped = bags_of(tmp_path / "d.npz", parts, ["p", "q", "q", "r"])
    assert members_of(grouped, [1, 2]).patients == ("q",)


def test_slides_are_known_by_their_ids(write_slides):
    with_patients = FeatureSet(write_slides(8))
    without = FeatureSet(write_slides(12, name="other", patient_id=None))
    training = members_of(with_patients, range(4)).record()
    assert members_of(without, range(12)).shared_with(training) == ("s0", "s1", "s2", "s3")
    assert members_of(with_patients, [0, 2, 4]).patients == ("p0_0", "p1_0")
