import dataclasses

import numpy as np
import pytest
import torch

from datamodules.digits import source_digits
from datamodules.mil.digit_bags import DigitBagsDataModule, DigitBagSource, _at_least_one


def source(**changes):
    options = {
        "split": "train", "count": 400, "seed": 0, "target": 9, "others": tuple(range(9)),
        "mean_length": 10.0, "std_length": 2.0, "positive_fraction": 0.5, "witness_rate": None,
        "as_images": False,
    }  # fmt: skip
    return DigitBagSource(**(options | changes))


def test_frozen_defaults():
    data = DigitBagsDataModule()
    bags = {split: data.source(split) for split in ("train", "val", "test")}
    assert [len(b) for b in bags.values()] == [200, 100, 500]
    for batch in bags.values():
        batch.check()
        assert batch.labels.float().mean() == 0.5
        sizes = batch.sizes().double()
        assert sizes.mean() == pytest.approx(9.5, abs=0.5)  # integer part of N(10, 2)
        assert sizes.std() == pytest.approx(2, abs=0.35)
    assert (data.num_classes, data.in_features, data.task) == (2, 64, "binary")
    assert data.class_names == ["without 9", "with 9"]
    assert data.numbers("predict") == data.numbers("test") == range(500)


def test_a_bag_is_positive_if_it_holds_the_target():
    digits = source_digits("train")
    bags = source()
    for index in range(20):
        bag, rows = bags.bag(index), bags.rows(index)
        holds = digits.labels[rows] == 9
        assert bag.instance_labels.tolist() == holds.astype(int).tolist()
        assert bag.labels.tolist() == [int(holds.any())] == [index % 2]
        np.testing.assert_array_equal(bag.features, digits.images[rows].reshape(-1, 64) / 16)
        assert bag.bag_ids == (f"train_{index:05d}",)


def test_a_bag_depends_on_split_seed_and_index_alone():
    first = source().rows(7)
    assert np.array_equal(first, source(count=8).rows(7))
    assert not np.array_equal(first, source(seed=1).rows(7))
    assert not np.array_equal(first, source().rows(8))
    lengths = [[source(split=s).rows(i).size for i in range(9)] for s in ("train", "val", "test")]
    assert lengths[0] != lengths[1] != lengths[2] != lengths[0]
    one, other = DigitBagsDataModule(seed=0), DigitBagsDataModule(seed=5, batch_size=4)
    assert torch.equal(one.source("val").features, other.source("val").features)
    assert not torch.equal(
        one.source("val").features[:9],
        DigitBagsDataModule(bag_seed=1).source("val").features[:9],
    )


def test_no_digit_is_in_two_splits():
    used = {}
    for split in ("train", "val", "test"):
        bags = source(split=split, count=150)
        rows = np.concatenate([bags.rows(i) for i in range(150)])
        used[split] = set(source_digits(split).ids[rows].tolist())
        assert len(used[split]) > 150
    assert not used["train"] & used["val"]
    assert not used["train"] & used["test"]
    assert not used["val"] & used["test"]


def test_natural_labels_follow_from_the_digits():
    natural = source(positive_fraction=None, count=2000, std_length=0.0)
    positive = np.mean([natural.bag(i).labels.item() for i in range(2000)])
    rate = (source_digits("train").labels == 9).mean()
    assert positive == pytest.approx(1 - (1 - rate) ** 10, abs=0.03)


def test_imbalance_and_witness_rate():
    rare = source(positive_fraction=0.1, witness_rate=0.4, count=1000, std_length=0.0)
    bags = [rare.bag(i) for i in range(1000)]
    positive = [b for b in bags if b.labels.item()]
    assert len(positive) == 100
    rate = np.mean([b.instance_labels.float().mean() for b in positive])
    assert rate == pytest.approx(0.4 / (1 - 0.6**10), abs=0.04)


def test_rare_positive_bags_are_in_every_balanced_batch():
    data = DigitBagsDataModule(
        train_bags=60, positive_fraction=0.05, batch_size=6, sampler="balanced_batches"
    )
    batches = list(data.train_dataloader())
    assert len(batches) == 10
    for batch in batches:
        assert batch.labels.sum() == 3
        positive = batch.index[batch.labels == 1].tolist()
        assert sorted(positive) == [19, 39, 59]  # all that there are, each once
    balanced = DigitBagsDataModule(
        train_bags=60, positive_fraction=0.05, batch_size=6, sampler="class_balanced"
    )
    assert sum(int(batch.labels.sum()) for batch in balanced.train_dataloader()) == 30


def test_every_instance_of_a_positive_bag_may_be_a_witness():
    bags = source(witness_rate=1.0)
    assert bags.bag(1).instance_labels.all() and not bags.bag(0).instance_labels.any()


@pytest.mark.parametrize(("length", "rate"), [(5, 0.3), (3, 0.05), (1, 0.2)])
def test_number_of_witnesses_follows_the_truncated_binomial(length, rate):
    random = np.random.default_rng(0)
    counts = np.bincount([_at_least_one(random, length, rate) for _ in range(20000)])
    binomial = [1.0]
    for _ in range(length):  # Pascal's rule
        binomial = [
            (binomial[k] if k < len(binomial) else 0) * (1 - rate)
            + (binomial[k - 1] if k else 0) * rate
            for k in range(len(binomial) + 1)
        ]
    expected = np.array([0.0, *binomial[1:]]) / (1 - binomial[0])
    frequency = np.zeros(length + 1)
    frequency[: counts.size] = counts / 20000
    np.testing.assert_allclose(frequency, expected, atol=0.012)


def test_target_and_other_digits_are_free():
    bags = source(target=1, others=(7, 4), split="test")
    rows = np.concatenate([bags.rows(i) for i in range(100)])
    assert set(source_digits("test").labels[rows].tolist()) == {1, 4, 7}


def test_images_are_the_same_pixels():
    images = source(as_images=True).bag(3).features
    assert images.shape[1:] == (1, 8, 8)
    assert torch.equal(images.flatten(1), source().bag(3).features)


def test_bags_have_at_least_one_instance():
    short = source(mean_length=0.5, std_length=1.0)
    assert min(short.rows(i).size for i in range(100)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": 10},
        {"other_digits": [9]},
        {"other_digits": []},
        {"positive_fraction": 0.0},
        {"witness_rate": 1.5},
        {"train_bags": 0},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=r"target|must be in|must be positive"):
        DigitBagsDataModule(**wrong)


def test_there_is_no_bag_beyond_the_last():
    with pytest.raises(IndexError, match="bag 3 does not exist; there are 3"):
        dataclasses.replace(source(), count=3).bag(3)
