"""What every batch sampler promises, for sets, batches and numbers of processes of any size."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.mil.samplers import TokenBudgetBatchSampler, class_balanced, pack, shuffled
from datamodules.sampling.keys import EpochBatchSampler, KeySampler
from structures import processes

COUNTS = st.integers(1, 30)
BATCHES = st.integers(1, 5)
WORLDS = st.integers(1, 4)
EPOCHS = st.integers(0, 3)


def batches(sampler, rank, world, epoch=0):
    """Return what one process gets, as lists of item numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "rank_and_world_size", lambda: (rank, world))
        sampler.set_epoch(epoch)
        found = list(sampler)
        assert len(found) == len(sampler)
    assert {key.epoch for batch in found for key in batch} <= {epoch}
    return [[key.index for key in batch] for batch in found]


@given(COUNTS, BATCHES, WORLDS)
def test_evaluation_deals_every_image_once(count, size, world):
    items = [10 * k + 3 for k in range(count)]
    sampler = EpochBatchSampler(items, size)
    alone = batches(sampler, 0, 1)
    assert [index for batch in alone for index in batch] == items
    ranks = [batches(sampler, rank, world) for rank in range(world)]
    steps = max(map(len, ranks))
    dealt = [r[step] for step in range(steps) for r in ranks if step < len(r)]
    assert dealt[: len(alone)] == alone  # batch by batch, in turn
    assert all(batch in alone for batch in dealt[len(alone) :])
    assert len(dealt) == max(len(alone), world)  # repeated only where a process would have none
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "rank_and_world_size", lambda: (0, 1))
        assert [key.index for key in KeySampler(sampler)] == items


@given(COUNTS, BATCHES, WORLDS, EPOCHS, st.booleans())
def test_training_steps_do_not_depend_on_the_number_of_processes(
    count, size, world, epoch, grouped
):
    groups = [k % 3 for k in range(count)] if grouped else None

    def make(per_process):
        return EpochBatchSampler(
            range(count), per_process, shuffle=True, seed=7, drop_last=True, groups=groups
        )

    if count < size * world:
        with pytest.raises(ValueError, match="do not fill one step"):
            batches(make(size), 0, world, epoch)
        return
    alone = batches(make(size * world), 0, 1, epoch)
    ranks = [batches(make(size), rank, world, epoch) for rank in range(world)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == alone
    seen = [index for batch in alone for index in batch]
    assert len(set(seen)) == len(seen) == count - count % (size * world)
    assert batches(make(size), 0, world, epoch) == ranks[0]
    if groups is not None:  # mixed batches come last, of what the groups have left over
        mixed = [len({groups[index] for index in batch}) > 1 for batch in alone]
        pure = sum((len(range(g, count, 3)) // (size * world)) for g in range(3))
        assert not any(mixed[: min(pure, len(mixed))])


@given(st.lists(st.integers(0, 12), max_size=20), st.integers(1, 10), st.integers(1, 5))
def test_packing_is_a_partition_within_the_budget(sizes, budget, most):
    packed = pack(np.array(sizes, dtype=np.int64), budget, most)
    assert sorted(index for batch in packed for index in batch.tolist()) == list(range(len(sizes)))
    for batch in packed:
        total = sum(sizes[k] for k in batch)
        assert 1 <= batch.size <= most
        assert total <= budget or batch.size == 1
        assert batch.tolist() == sorted(batch.tolist())
    plain: list[list[int]] = []  # into the first batch that has room
    for k, size in enumerate(sizes):
        room = (b for b in plain if len(b) < most and sum(sizes[j] for j in b) + size <= budget)
        found = next(room, None)
        if found is None:
            plain.append([k])
        else:
            found.append(k)
    assert [batch.tolist() for batch in packed] == plain


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
    st.integers(1, 12),
    st.integers(1, 4),
    WORLDS,
    EPOCHS,
)
def test_token_budget_over_processes(sizes, budget, most, world, epoch):
    def make():
        return TokenBudgetBatchSampler(
            range(len(sizes)), np.array(sizes), budget, most, draw=shuffled(len(sizes)), seed=1
        )

    alone = batches(make(), 0, 1, epoch)
    if len(alone) < world:
        with pytest.raises(ValueError, match="are too few for"):
            batches(make(), 0, world, epoch)
        return
    ranks = [batches(make(), rank, world, epoch) for rank in range(world)]
    dealt = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert dealt == alone[: len(dealt)]
    assert len(alone) - len(dealt) < world
    for batch in alone:
        assert sum(sizes[k] for k in batch) <= budget or len(batch) == 1
    assert len(batches(make(), 0, 1, 0)) == len(alone)  # every epoch has as many steps


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 5))
def test_balanced_draws(labels, seed):
    labels = np.array(labels)
    order = class_balanced(labels)(np.random.default_rng(seed))
    classes, drawn = np.unique(labels[order], return_counts=True)
    assert order.size == labels.size
    assert drawn.max() - drawn.min() <= 1 or classes.size < np.unique(labels).size
    for value in np.unique(labels):  # within a class nobody is drawn twice more than another
        times = [int((order == k).sum()) for k in np.flatnonzero(labels == value)]
        assert max(times) - min(times) <= 1
