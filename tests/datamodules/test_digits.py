import hashlib

import numpy as np
import pytest

from datamodules.digits import source_digits


def test_split_is_frozen():
    hashes = {
        split: hashlib.sha256(source_digits(split).ids.astype("<i8").tobytes()).hexdigest()[:16]
        for split in ("train", "val", "test")
    }
    assert hashes == {
        "train": "68c32e14493e5a75",
        "val": "370e32c0804061ed",
        "test": "e64463355043b763",
    }


def test_no_digit_is_in_two_splits_and_none_is_lost():
    ids = [source_digits(split).ids for split in ("train", "val", "test")]
    assert [i.size for i in ids] == [1200, 197, 400]
    assert np.array_equal(np.sort(np.concatenate(ids)), np.arange(1797))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_rows_are_those_of_the_table_and_classes_keep_their_share(split):
    from sklearn.datasets import load_digits

    table, digits = load_digits(), source_digits(split)
    assert np.array_equal(digits.images, table.images[digits.ids])
    assert np.array_equal(digits.labels, table.target[digits.ids])
    expected = np.bincount(table.target) * digits.ids.size / 1797
    assert np.abs(np.bincount(digits.labels) - expected).max() < 1.5  # test takes what is left
    assert digits.images.max() == 16


def test_callers_cannot_change_the_digits():
    with pytest.raises(ValueError, match="read-only"):
        source_digits("val").images[0] = 0


def test_unknown_split():
    with pytest.raises(ValueError, match="'all'"):
        source_digits("all")
