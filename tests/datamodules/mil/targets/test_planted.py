"""Times, values and grades planted in bags of digits."""

import numpy as np
import pytest
import torch
from sksurv.metrics import concordance_index_censored

from datamodules.fingerprint import fingerprint
from datamodules.mil.digit_bags import DigitBagsDataModule


def planted(task, count=300):
    data = DigitBagsDataModule(task=task, train_bags=count, val_bags=20, test_bags=20)
    bags = data.source("train")
    share = [bag.instance_labels.double().mean().item() for bag in bags.bags()]
    return data, bags.labels.numpy(), np.array(share)


def test_the_oracle_ranks_times():
    data, labels, share = planted("cox")
    time, event = labels[:, 0], labels[:, 1] == 1
    assert concordance_index_censored(event, time, share)[0] >= 0.88
    assert 0.2 < 1 - event.mean() < 0.5
    assert len(np.unique(time[event])) < event.sum()  # some are equal
    assert (data.num_classes, data.class_names, data.target_names) == (1, [], ())
    other, again, _ = planted("discrete_time")
    assert np.array_equal(labels, again)
    assert other.num_classes == 4
    assert "events" in data.describe("train") and data.summary()["train"]["events"] == event.sum()


def test_values_follow_the_share_and_are_partly_unknown():
    data, labels, share = planted("regression")
    assert data.num_classes == 2 and list(data.target_names) == ["share", "rest"]
    assert np.corrcoef(labels[:, 0], share)[0, 1] > 0.95
    known = np.isfinite(labels[:, 1])
    assert known.sum() == 270
    assert np.corrcoef(labels[known, 1], share[known])[0, 1] < -0.95


def test_grades_are_quarters_of_the_share():
    data, labels, share = planted("ordinal")
    assert labels.dtype == np.int64 and len(data.class_names) == 4
    assert np.array_equal(labels, np.minimum((share * 4 + 1e-12).astype(int), 3))


def test_classes_and_their_hash_are_unchanged():
    plain = DigitBagsDataModule(train_bags=20)
    assert set(plain.source("train").labels.tolist()) == {0, 1}
    assert plain.source("train").labels.dtype == torch.int64
    named = {"task": "binary", "time_bins": 4}
    assert fingerprint(DigitBagsDataModule, {}) == fingerprint(DigitBagsDataModule, named)
    assert fingerprint(DigitBagsDataModule, {}) != fingerprint(DigitBagsDataModule, {"task": "cox"})


def test_splits_are_recorded_in_columns_of_the_target(tmp_path):
    data = DigitBagsDataModule(task="regression", train_bags=10, val_bags=1, test_bags=1)
    data.write_splits(tmp_path / "splits.csv")
    lines = (tmp_path / "splits.csv").read_text().splitlines()
    assert lines[0] == "bag_id,patient_id,share,rest,split"
    assert lines[10].endswith(",,train")


def test_an_option_of_classes_is_refused():
    with pytest.raises(ValueError, match="witness_rate"):
        DigitBagsDataModule(task="cox", witness_rate=0.2)
