from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.mil.samplers import (
    BatchPlan,
    DrawnBatchSampler,
    TokenBudgetBatchSampler,
    class_balanced,
    pack,
    shuffled,
    weighted,
)
from datamodules.sampling.keys import EpochBatchSampler
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


def test_class_balance_is_exact_and_covers_each_class_evenly():
    draw = class_balanced(LABELS)
    extra = Counter()
    for seed in range(20):
        order = draw(np.random.default_rng(seed))
        assert order.size == 30
        drawn = Counter(LABELS[order].tolist())
        assert drawn == {0: 10, 1: 10, 2: 10}
        times = Counter(order.tolist())
        assert max(times[i] for i in range(22)) == 1  # a part of the largest class
        assert {times[i] for i in range(22, 29)} == {1, 2} and times[29] == 10
        extra.update(i for i in range(22, 29) if times[i] == 2)
    assert len(extra) == 7  # another remainder every time
    two = class_balanced(np.array([0, 0, 0, 1, 1]))
    drawn = [int(np.isin(two(np.random.default_rng(s)), [3, 4]).sum()) for s in range(20)]
    assert set(drawn) == {2, 3}


def test_classes_are_mixed_within_the_epoch():
    order = class_balanced(LABELS)(np.random.default_rng(0))
    changes = int((np.diff(LABELS[order]) != 0).sum())
    assert changes > 12  # sorted classes would change twice; 20 are expected


def test_weighted_draws_have_the_given_shares():
    weights = np.array([0.0, 1, 2, 5])
    order = np.concatenate([weighted(weights)(np.random.default_rng(seed)) for seed in range(2000)])
    share = np.bincount(order, minlength=4) / order.size
    np.testing.assert_allclose(share, weights / 8, atol=0.02)  # 3.6 standard deviations
    assert share[0] == 0


@pytest.mark.parametrize("wrong", [[0.0, 0.0], [1.0, -1.0], [1.0, np.nan]])
def test_wrong_weights(wrong):
    with pytest.raises(ValueError, match="not negative and not all 0"):
        weighted(np.array(wrong))


DRAWS = {
    "shuffle": shuffled(30),
    "class_balanced": class_balanced(LABELS),
    "weighted": weighted(np.arange(30.0)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_processes_together_draw_what_one_with_the_larger_batch_draws(monkeypatch, name):
    for epoch in (0, 3):
        one = ranks(monkeypatch, 1, lambda: DrawnBatchSampler(ITEMS, 6, draw=DRAWS[name]), epoch)
        for world in (2, 3):
            several = ranks(
                monkeypatch,
                world,
                lambda w=world: DrawnBatchSampler(ITEMS, 6 // w, draw=DRAWS[name]),
                epoch,
            )
            joined = [[i for part in step for i in part] for step in zip(*several, strict=True)]
            assert joined == one[0]


def test_a_plan_of_balanced_batches():
    labels = np.append(np.zeros(120, int), np.ones(10, int))
    plan = BatchPlan(batch_size=4, sampler="balanced_batches", max_instances=20)
    for batch in epoch_of(plan.build(ITEMS, labels, np.ones(130), None, 0)):
        assert sorted(labels[batch].tolist()) == [0, 0, 1, 1]


def test_a_shuffle_is_the_plain_training_order():
    plain = EpochBatchSampler(ITEMS, 4, shuffle=True, seed=9, drop_last=True)
    drawn = DrawnBatchSampler(ITEMS, 4, draw=shuffled(30), seed=9)
    assert epoch_of(plain, 2) == epoch_of(drawn, 2)


def test_draws_depend_on_seed_and_epoch_alone():
    make = [DrawnBatchSampler(ITEMS, 5, draw=DRAWS["weighted"], seed=s) for s in (0, 0, 1)]
    assert epoch_of(make[0], 4) == epoch_of(make[1], 4) != epoch_of(make[2], 4)
    assert epoch_of(make[0], 4) != epoch_of(make[0], 5)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 40), st.integers(1, 6))
def test_packing(sizes, budget, max_bags):
    batches = pack(np.array(sizes), budget, max_bags)
    assert sorted(int(b) for batch in batches for b in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) <= max_bags
        assert sum(sizes[b] for b in batch) <= budget or len(batch) == 1
    # First fit: no bag fits into an earlier batch as that one was when the bag came.
    for later, batch in enumerate(batches):
        for bag in batch.tolist():
            for earlier in batches[:later]:
                before = [b for b in earlier.tolist() if b < bag]
                full = len(before) == max_bags
                assert full or sum(sizes[b] for b in before) + sizes[bag] > budget


SIZES = np.random.default_rng(1).integers(1, 60, 30)


def budgeted(budget=100, max_bags=8, draw="shuffle", seed=0):
    return TokenBudgetBatchSampler(ITEMS, SIZES, budget, max_bags, draw=DRAWS[draw], seed=seed)


@pytest.mark.parametrize("draw", DRAWS)
def test_processes_take_the_batches_of_one_process_in_turn(monkeypatch, draw):
    for epoch in (0, 1):
        one = ranks(monkeypatch, 1, lambda: budgeted(draw=draw), epoch)[0]
        for world in (2, 3):
            several = ranks(monkeypatch, world, lambda: budgeted(draw=draw), epoch)
            joined = [batch for step in zip(*several, strict=True) for batch in step]
            assert joined == one[: len(one) - len(one) % world]


def test_every_epoch_has_equally_many_batches_within_the_budget():
    sampler = budgeted()
    counts = set()
    for epoch in range(30):
        batches = epoch_of(sampler, epoch)
        counts.add(len(batches))
        totals = [int(SIZES[np.array(b) - 100].sum()) for b in batches]
        assert max(totals) <= 100
    assert len(counts) == 1
    seen = [i for batch in epoch_of(sampler, 0) for i in batch]
    assert sorted(seen) == ITEMS  # epoch 0 has every bag once
    lengths = {len(sampler._packed(epoch, 0)) for epoch in range(30)}
    assert len(lengths) > 1  # otherwise the test above shows nothing


def test_batches_are_nearly_full():
    batches = epoch_of(budgeted())
    totals = [int(SIZES[np.array(b) - 100].sum()) for b in batches]
    assert np.mean(totals[:-1]) > 85


def test_more_processes_than_batches(monkeypatch):
    monkeypatch.setattr(processes, "rank_and_world_size", lambda: (0, 4))
    with pytest.raises(ValueError, match="are too few for 4 processes; lower token_budget"):
        len(budgeted(budget=10**6, max_bags=15))


def test_a_plan_cuts_sizes_and_multiplies_weights():
    sizes, labels = np.full(130, 50), np.append(np.zeros(115, int), np.ones(15, int))
    plan = BatchPlan(batch_size=4, token_budget=60, max_instances=20)
    batches = epoch_of(plan.build(ITEMS, labels, sizes, None, 0))
    assert {len(b) for b in batches} == {3}  # 3 x 20 instances; whole bags would go one by one
    weights = np.zeros(130)
    weights[[101, 102, 120]] = 1, 2, 3
    plan = BatchPlan(batch_size=5, sampler="weighted", class_weights=(1.0, 0.0))
    drawn = {i for b in epoch_of(plan.build(ITEMS, labels, sizes, weights, 0)) for i in b}
    assert drawn == {101, 102}  # 120 has class 1
    balanced = BatchPlan(batch_size=6, sampler="class_balanced")
    drawn = [i for b in epoch_of(balanced.build(ITEMS, labels, sizes, None, 0)) for i in b]
    assert sum(labels[drawn]) == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token_budget": 0}, "token_budget must be at least 1"),
        ({"max_instances": -1}, "max_instances must be at least 1"),
        ({"class_weights": (1.0, 2.0)}, "needs sampler: weighted"),
        ({"token_budget": 100}, "at 1 every batch is one bag"),
        (
            {"token_budget": 100, "batch_size": 8, "sampler": "balanced_batches"},
            "leave one of them out",
        ),
    ],
)
def test_plans_that_mean_nothing(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchPlan(**arguments)


def test_weights_are_needed_and_one_a_class():
    with pytest.raises(ValueError, match="needs class_weights, or a column `weight`"):
        BatchPlan(sampler="weighted").build([0, 1], np.array([0, 1]), np.ones(2), None, 0)
    plan = BatchPlan(sampler="weighted", class_weights=(1.0,))
    with pytest.raises(ValueError, match="class_weights has 1 entries, .* class 1"):
        plan.build([0, 1], np.array([0, 1]), np.ones(2), None, 0)
