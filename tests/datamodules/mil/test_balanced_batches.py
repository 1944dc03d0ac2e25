from collections import Counter

import numpy as np
import pytest

from datamodules.mil.balanced_batches import BalancedBatchSampler
from structures import processes

ITEMS = list(range(100, 130))
LABELS = np.array([0] * 22 + [1] * 7 + [2])


def epoch_of(sampler, epoch=0):
    sampler.set_epoch(epoch)
    batches = [[key.index for key in keys] for keys in sampler]
    assert len(batches) == len(sampler)
    return batches


def ranks(monkeypatch, world, make, epoch=0):
    """What each of ``world`` processes draws."""
    result = []
    for rank in range(world):
        monkeypatch.setattr(processes, "rank_and_world_size", lambda rank=rank: (rank, world))
        result.append(epoch_of(make(), epoch))
    monkeypatch.setattr(processes, "rank_and_world_size", lambda: (0, 1))
    return result


def of_classes(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(7).permutation(labels)


@pytest.mark.parametrize(
    ("sizes", "batch", "world"),
    [
        ((200, 1), 16, 1),
        ((200, 1), 8, 2),
        ((200, 30, 7), 6, 2),
        ((20, 31, 7, 5), 11, 1),
        ((20, 31, 9, 5), 9, 3),
    ],
)
def test_every_batch_holds_two_bags_of_each_class(monkeypatch, sizes, batch, world):
    labels, classes = of_classes(sizes), len(sizes)
    items = list(range(50, 50 + labels.size))
    step = batch * world
    for epoch in range(100):
        parts = ranks(monkeypatch, world, lambda: BalancedBatchSampler(items, labels, batch), epoch)
        assert {len(part) for part in parts} == {labels.size // step}  # every epoch
        for together in zip(*parts, strict=True):
            for members in together:
                assert len(members) == batch
                drawn = np.bincount(labels[np.array(members) - 50], minlength=classes)
                assert drawn.min() >= 2
                assert drawn.max() - drawn.min() <= 2  # 1 of the step, 1 of its division
            times = Counter(bag for members in together for bag in members)
            counts = np.zeros(classes, int)
            for bag, often in times.items():
                counts[labels[bag - 50]] += often
                # twice in a step only where the class has too few bags
                assert often <= -(-(step // classes + 1) // sizes[labels[bag - 50]])
            assert set(counts) <= {step // classes, -(-step // classes)}


def test_a_class_gives_all_its_bags_before_one_comes_again():
    labels = np.array([0] * 30 + [1] * 7 + [2] * 5)
    order = epoch_of(BalancedBatchSampler(range(42), labels, 9), 3)
    assert len(order) == 4
    drawn = [bag for batch in order for bag in batch]
    for members in (range(30), range(30, 37), range(37, 42)):
        of_class = [bag for bag in drawn if bag in members]
        assert len(of_class) == 12
        times = Counter(of_class)
        assert max(times.values()) - min(times.get(bag, 0) for bag in members) <= 1


def test_shares_that_do_not_divide_go_to_classes_in_turn():
    labels = np.repeat(np.arange(3), 40)
    batches = epoch_of(BalancedBatchSampler(range(120), labels, 10), 5)
    shares = [np.bincount(labels[batch], minlength=3) for batch in batches]
    assert {tuple(sorted(share)) for share in shares} == {(3, 3, 4)}
    assert sum(shares).tolist() == [40, 40, 40]  # 12 batches, four extra bags for each


def test_small_batches_hold_two_bags_of_as_many_classes_as_fit():
    labels = np.repeat(np.arange(5), 24)
    for batch, kinds, extra in [(4, 2, 0), (5, 2, 1), (3, 1, 1), (2, 1, 0), (1, 1, -1)]:
        drawn = np.zeros(5, int)
        for members in epoch_of(BalancedBatchSampler(range(120), labels, batch)):
            counts = np.bincount(labels[members], minlength=5)
            present = sorted(counts[counts > 0].tolist())
            assert present == [2] * (kinds - 1) + [2 + extra]
            drawn += counts > 0
        assert drawn.max() - drawn.min() <= 1  # classes take turns


def test_processes_together_draw_the_balanced_steps_of_one(monkeypatch):
    labels = of_classes((40, 9, 3))
    items = list(range(52))
    for epoch in (0, 4):
        one = ranks(monkeypatch, 1, lambda: BalancedBatchSampler(items, labels, 12), epoch)[0]
        for world in (2, 3):
            several = ranks(
                monkeypatch,
                world,
                lambda w=world: BalancedBatchSampler(items, labels, 12 // w),
                epoch,
            )
            for whole, parts in zip(one, zip(*several, strict=True), strict=True):
                assert sorted(whole) == sorted(bag for part in parts for bag in part)


def test_balanced_batches_depend_on_seed_and_epoch_alone(monkeypatch):
    make = [BalancedBatchSampler(ITEMS, LABELS, 6, seed=s) for s in (0, 0, 1)]
    assert epoch_of(make[0], 4) == epoch_of(make[1], 4) != epoch_of(make[2], 4)
    assert epoch_of(make[0], 4) != epoch_of(make[0], 5)
    monkeypatch.setattr(processes, "rank_and_world_size", lambda: (0, 2))
    with pytest.raises(ValueError, match="do not fill one step of 16"):
        list(BalancedBatchSampler(ITEMS, LABELS, 16))
