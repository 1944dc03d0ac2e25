import csv
import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datamodules.mil.folds import hold_out, stratified_folds
from datamodules.mil.splits import (
    SplitOptions,
    choose_splits,
    divided_patients,
    folds_of,
    write_splits,
)


def bags(labels, groups=(), folds=None, named=()):
    return SimpleNamespace(
        path=Path("bags.x"),
        labels=np.asarray(labels),
        task="multiclass",
        groups=tuple(groups),
        published_folds=None if folds is None else np.asarray(folds),
        named_splits=tuple(named),
    )


def parts(splits):
    return {name: np.flatnonzero(mask).tolist() for name, mask in splits.items()}


FORTY = np.arange(40) % 2
PATIENTS = [f"p{i // 4}" for i in range(40)]


def test_fractions_by_patient_in_the_order_that_is_documented():
    options = SplitOptions(test_fraction=0.25, val_fraction=0.5, seed=3)
    splits = choose_splits(bags(FORTY, PATIENTS), options)
    test = hold_out(FORTY, 0.25, (3, 0, 0), PATIENTS)
    rest = np.flatnonzero(~test)
    val = rest[hold_out(FORTY[rest], 0.5, (3, 1, 0, 0), [PATIENTS[b] for b in rest])]
    assert np.array_equal(splits["test"], test)
    assert np.flatnonzero(splits["val"]).tolist() == val.tolist()
    assert splits["predict"].all()
    together = splits["train"].astype(int) + splits["val"] + splits["test"]
    assert (together == 1).all()
    held = [{PATIENTS[b] for b in numbers} for numbers in parts(splits).values()][:3]
    assert sum(map(len, held)) == 10


def test_validation_bags_of_a_fold_depend_on_repeat_and_fold():
    for repeat, fold in ((0, 0), (0, 2), (2, 2)):
        options = SplitOptions(fold=fold, repeat=repeat, num_folds=4, seed=5)
        splits = choose_splits(bags(FORTY), options)
        rest = np.flatnonzero(stratified_folds(FORTY, 4, 5, repeat) != fold)
        assert np.array_equal(np.flatnonzero(~splits["test"]), rest)
        val = rest[hold_out(FORTY[rest], 0.2, (5, 1, repeat, fold + 1))]
        assert np.flatnonzero(splits["val"]).tolist() == val.tolist()


def test_named_splits_are_taken_as_they_are():
    named = ["train"] * 20 + ["val"] * 8 + ["test"] * 12
    splits = parts(choose_splits(bags(FORTY, named=named), SplitOptions(test_fraction=0.9)))
    assert splits["train"] == list(range(20)) and splits["val"] == list(range(20, 28))
    assert splits["test"] == list(range(28, 40))


def test_validation_bags_are_made_where_the_file_names_none():
    named = ["train"] * 30 + ["test"] * 10
    splits = choose_splits(bags(FORTY, named=named), SplitOptions(val_fraction=0.2))
    val = hold_out(FORTY[:30], 0.2, (0, 1, 0, 0))
    assert np.array_equal(splits["val"], np.append(val, np.zeros(10, bool)))
    assert parts(splits)["test"] == list(range(30, 40))
    none = choose_splits(bags(FORTY, named=named), SplitOptions(val_fraction=0))
    assert not none["val"].any()


def test_published_folds_win_and_a_named_split_has_no_fold():
    folds = np.stack([np.arange(40) % 4, np.arange(40) // 10])
    given = bags(FORTY, folds=folds)
    assert np.array_equal(folds_of(given, 7, 1, 0), folds[1])
    with pytest.warns(UserWarning, match="4 published folds; num_folds=10 is ignored"):
        splits = choose_splits(given, SplitOptions(fold=2, repeat=1, val_fraction=0))
    assert parts(splits)["test"] == list(range(20, 30))
    with pytest.raises(ValueError, match=r"bags\.x.*2 repeats, so repeat must be 0 to 1, got 2"):
        folds_of(given, 4, 2, 0)
    with pytest.raises(ValueError, match=r"folds are 0 to 3, got 4"):
        choose_splits(given, SplitOptions(fold=4, num_folds=4))
    with pytest.raises(ValueError, match="names the splits, so fold 0 has no effect"):
        choose_splits(bags(FORTY, named=["train"] * 40), SplitOptions(fold=0))
    made = folds_of(bags(FORTY, PATIENTS), 5, 0, 8)
    assert np.array_equal(made, stratified_folds(FORTY, 5, 8, 0, PATIENTS))


def test_bags_without_labels_are_only_predicted():
    splits = choose_splits(bags([-1, -1, -1]), SplitOptions(fold=0))
    assert parts(splits) == {"train": [], "val": [], "test": [], "predict": [0, 1, 2]}


def test_a_class_without_training_bags_is_told():
    with pytest.warns(UserWarning, match=r"no training bag has class \[1\]"):
        choose_splits(bags([0, 0, 1], named=["train", "train", "test"]), SplitOptions())


def test_patients_in_two_parts():
    path = Path("t.csv")
    found = list(divided_patients(path, ["p", "q", "p", "p", "q"], [0, 1, 2, 0, 1], "fold"))
    assert [(f.item, f.kind, f.reason) for f in found] == [("p", "patient", "bags in folds 0, 2")]
    assert list(divided_patients(path, (), [0, 1], "fold")) == []


def test_the_file_of_splits(tmp_path):
    rows = [("a,b", "p", 1, "train"), ("c", "ü", "neg", "test")]
    path = tmp_path / "new" / "splits.csv"
    digest = write_splits(path, rows, "slide_id")
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["slide_id", "patient_id", "label", "split"],
            ["a,b", "p", "1", "train"],
            ["c", "ü", "neg", "test"],
        ]
    assert [p.name for p in path.parent.iterdir()] == ["splits.csv"]
