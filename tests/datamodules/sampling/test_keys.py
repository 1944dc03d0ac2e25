import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from datamodules.sampling.keys import (
    EpochBatchSampler,
    KeySampler,
    SampleKey,
    keyed_generator,
    neighbouring_places,
)
from structures import processes


def batches(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return [[key.index for key in batch] for batch in sampler]


@pytest.fixture
def in_world(monkeypatch):
    """Return a function that builds a sampler as rank r of w processes and collects its epoch."""

    def collect(rank, world, *args, epoch=0, **kwargs):
        monkeypatch.setattr(processes, "rank_and_world_size", lambda: (rank, world))
        sampler = EpochBatchSampler(*args, **kwargs)
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert len(sampler) == len(keys)
        return keys

    return collect


def test_streams_differ_where_numpy_alone_would_repeat_them():
    # numpy pads seeds with zeros, so that [1, 2] and [1, 2, 0] seed the same stream
    same = [np.random.default_rng(key).integers(2**60) for key in ([1, 2], [1, 2, 0])]
    assert same[0] == same[1]
    keys = [(1, 2), (1, 2, 0), (1, 2, 0, 0), (2, 2), (1, 3)]
    assert len({int(keyed_generator(*key).integers(2**60)) for key in keys}) == 5
    again = keyed_generator(1, 2).integers(2**60)
    assert again == keyed_generator(1, 2).integers(2**60)


def test_epoch_is_a_permutation_without_the_remainder():
    sampler = EpochBatchSampler(range(10, 33), 5, shuffle=True, drop_last=True)
    first, second = batches(sampler, 0), batches(sampler, 1)
    assert [len(batch) for batch in first] == [5, 5, 5, 5]
    assert len(sampler) == 4
    members = [index for batch in first for index in batch]
    assert len(set(members)) == 20
    assert set(members) <= set(range(10, 33))
    assert first != second
    assert batches(sampler, 0) == first
    other = EpochBatchSampler(range(10, 33), 5, shuffle=True, drop_last=True, seed=1)
    assert batches(other, 0) != first


def test_keys_carry_the_epoch():
    sampler = EpochBatchSampler(range(4), 2)
    sampler.set_epoch(6)
    assert list(sampler) == [
        [SampleKey(0, 6, None), SampleKey(1, 6, None)],
        [SampleKey(2, 6, None), SampleKey(3, 6, None)],
    ]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_processes_together_make_the_step_of_one(in_world, world, grouped):
    groups = [i % 3 == 0 for i in range(40)] if grouped else None
    shared = {"shuffle": True, "drop_last": True, "groups": groups, "short_sides": [64, 96, 128]}
    alone = in_world(0, 1, range(40), 2 * world, epoch=3, **shared)
    ranks = [in_world(r, world, range(40), 2, epoch=3, **shared) for r in range(world)]
    assert {len(keys) for keys in ranks} == {len(alone)} == {40 // (2 * world)}
    for step, batch in enumerate(alone):
        assert [key for keys in ranks for key in keys[step]] == batch
        assert all(len(keys[step]) == 2 for keys in ranks)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [7, 9, 12, 16])
def test_evaluation_deals_the_batches_of_one_process(in_world, world, count):
    alone = in_world(0, 1, range(count), 3)
    assert [key.index for batch in alone for key in batch] == list(range(count))
    ranks = [in_world(rank, world, range(count), 3) for rank in range(world)]
    for number, batch in enumerate(alone):
        assert ranks[number % world][number // world] == batch
    assert sum(len(keys) for keys in ranks) == len(alone)


def test_batches_hold_one_group_and_nothing_is_lost_on_average():
    groups = [0] * 13 + [1] * 10  # 3 and 2 full batches of 4, then 1 and 2 are left over
    sampler = EpochBatchSampler(range(23), 4, shuffle=True, drop_last=True, groups=groups)
    for epoch in range(5):
        made = batches(sampler, epoch)
        kinds = [{groups[index] for index in batch} for batch in made]
        assert len(made) == 23 // 4
        assert all(len(kind) == 1 for kind in kinds)  # the left over three don't fill a batch
    uneven = [0] * 15 + [1] * 9  # left over: 3 and 1, together one mixed batch
    mixed = EpochBatchSampler(range(24), 4, shuffle=True, drop_last=True, groups=uneven)
    made = batches(mixed)
    assert sorted(index for batch in made for index in batch) == list(range(24))
    assert [len({uneven[i] for i in batch}) for batch in made] == [1, 1, 1, 1, 1, 2]


def test_groups_do_not_sort_the_epoch():
    groups = [0] * 50 + [1] * 50
    sampler = EpochBatchSampler(range(100), 5, shuffle=True, drop_last=True, groups=groups)
    kinds = [groups[batch[0]] for batch in batches(sampler)]
    assert kinds != sorted(kinds)
    assert kinds != sorted(kinds, reverse=True)


def test_one_size_a_step_drawn_from_all():
    sampler = EpochBatchSampler(range(200), 2, shuffle=True, drop_last=True, short_sides=[10, 20])
    sizes = [{key.size for key in batch} for batch in sampler]
    assert all(len(size) == 1 for size in sizes)
    drawn = [size.pop() for size in sizes]
    assert 30 < drawn.count(10) < 70
    sampler.set_epoch(1)
    assert drawn != [batch[0].size for batch in sampler]


def test_a_process_without_a_batch_takes_that_of_another(in_world):
    ranks = [in_world(rank, 5, range(3), 2) for rank in range(5)]
    numbers = [[[key.index for key in batch] for batch in batches] for batches in ranks]
    assert numbers == [[[0, 1]], [[2]], [[0, 1]], [[2]], [[0, 1]]]


def test_key_sampler_leads_to_the_same_batches(in_world):
    for world in (1, 2, 3):
        for rank in range(world):
            expected = in_world(rank, world, range(11), 2)
            flat = KeySampler(EpochBatchSampler(range(11), 2))
            assert len(flat) == sum(len(batch) for batch in expected)
            loader = DataLoader(Keys(11), batch_size=2, sampler=flat, collate_fn=list)
            assert list(loader) == expected


class Keys(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        return key


def test_mistakes_are_refused(in_world):
    with pytest.raises(ValueError, match="batch_size"):
        EpochBatchSampler(range(3), 0)
    with pytest.raises(ValueError, match="no items"):
        EpochBatchSampler([], 2)
    with pytest.raises(ValueError, match="2 group numbers for 3 items"):
        EpochBatchSampler(range(3), 1, groups=[0, 1])
    with pytest.raises(ValueError, match="3 training items do not fill one step of 2 items on"):
        in_world(0, 2, range(3), 2, shuffle=True, drop_last=True)
    with pytest.raises(ValueError, match="needs drop_last"):
        in_world(0, 2, range(8), 2, shuffle=True)


@pytest.mark.parametrize("world", [1, 3])
def test_neighbours_do_not_depend_on_the_number_of_processes(in_world, world):
    shared = {"shuffle": True, "drop_last": True, "window": 5}
    alone = in_world(0, 1, range(40), 2 * world, epoch=2, **shared)
    ranks = [in_world(r, world, range(40), 2, epoch=2, **shared) for r in range(world)]
    keys = [key for batch in alone for key in batch]
    together = [key for step in range(len(alone)) for keys in ranks for key in keys[step]]
    assert together == keys
    order = [key.index for key in keys]
    for place, key in enumerate(keys):
        places = neighbouring_places(place, 2 * world, len(order), 5)
        assert key.neighbours == tuple(order[p] for p in places)


@pytest.mark.parametrize(("batch", "world"), [(1, 1), (4, 1), (16, 1), (24, 1), (16, 4), (64, 2)])
def test_neighbours_are_what_the_same_worker_sees(batch, world):
    """Of one, two, four or eight, once an epoch has begun."""
    step, window = batch * world, 40
    count = step * 400 - 1  # the last step is not full
    for place in range(count - 70, count):
        places = neighbouring_places(place, step, count, window)
        assert window <= len(places) == len(set(places)) < window + 32
        assert place not in places
        steps = places // step
        assert set((place // step - steps) % 8) == {0}
        assert max(steps) <= place // step
        assert batch == 1 or max(steps) == place // step
        assert max(places) < count
        assert set(places % step // batch) == {place % step // batch}  # the process


def test_neighbours_at_the_start_of_an_epoch_are_filled_up_with_those_right_before():
    assert list(neighbouring_places(0, 2, 100, 4)) == [1, 4, 3, 2]
    assert list(neighbouring_places(5, 2, 100, 4)) == [4, 3, 2, 1]
    assert list(neighbouring_places(17, 2, 100, 4)) == [16, 0, 1, 15]
    assert list(neighbouring_places(33, 2, 100, 4)) == [32, 16, 17, 0, 1]


def test_fewer_items_than_the_window_and_no_window():
    small = EpochBatchSampler(range(3), 1, window=10)
    assert [key.neighbours for keys in small for key in keys] == [(2, 1), (2, 0), (1, 0)]
    assert [
        key.neighbours for keys in EpochBatchSampler(range(1), 1, window=10) for key in keys
    ] == [()]
    assert [key.neighbours for keys in EpochBatchSampler(range(2), 1) for key in keys] == [(), ()]
