import math
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.sampling.keys import EpochBatchSampler
from datamodules.sampling.repeats import Repeats, occurrences, repeat_factors
from datamodules.sampling.resumable import ResumableBatches
from structures import processes

FACTORS = [1.0, 1.0, 2.5, 1.0, 1.25, 3.0, 1.0, 1.7]


def literal_factors(classes_of_images, threshold):
    """LVIS, appendix on training, word by word."""
    number = len(classes_of_images)
    found = []
    for classes in classes_of_images:
        factor = 1.0
        for c in set(classes):
            share = sum(c in other for other in classes_of_images) / number
            factor = max(factor, math.sqrt(threshold / share))
        found.append(factor)
    return found


@given(
    st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=12),
    st.floats(0.001, 1.0),
)
def test_factors_are_those_of_the_paper(classes, threshold):
    images = np.repeat(np.arange(len(classes)), [len(c) for c in classes])
    labels = np.array(list(chain(*classes)), dtype=np.int64)
    found = repeat_factors(images, labels, len(classes), threshold)
    np.testing.assert_allclose(found, literal_factors(classes, threshold), rtol=1e-12)


def test_factors_by_hand():
    # of 1000 images, class 0 is in all but two, class 1 in 1, class 2 in 10; 998 has no object
    images = np.array([*range(998), 999, *range(10), 5])
    labels = np.array([0] * 998 + [1] + [2] * 10 + [2])
    factors = repeat_factors(images, labels, 1000, 0.004)
    assert factors[999] == pytest.approx(2.0)  # sqrt(.004 / .001)
    assert factors[:999].tolist() == [1.0] * 999


def test_every_epoch_rounds_each_factor_and_has_the_same_length():
    repeats = Repeats(FACTORS)
    rng = np.random.default_rng(0)
    times = np.array([np.bincount(repeats.draw(rng), minlength=8) for _ in range(4000)])
    assert repeats.total == 12  # of 12.45
    assert set(times.sum(1)) == {12, 13}
    assert (times >= np.floor(FACTORS)).all()
    assert (times <= np.ceil(FACTORS)).all()
    np.testing.assert_allclose(times.mean(0), FACTORS, atol=0.03)  # 4 standard errors
    assert len({tuple(row) for row in times}) == 6  # any one or two of the three fractions


def test_whole_factors_are_exact():
    repeats = Repeats([1.0, 3.0, 2.0] * 1000)
    assert repeats.total == 6000
    drawn = np.bincount(repeats.draw(np.random.default_rng(1)))
    assert drawn.tolist() == [1, 3, 2] * 1000


@pytest.mark.parametrize("wrong", [0.99, float("nan"), float("inf"), -1.0])
def test_factors_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match="repeat factors"):
        Repeats([1.0, wrong])
    with pytest.raises(ValueError, match="2 repeat factors for 3 items"):
        EpochBatchSampler(range(3), 1, repeats=[1.0, 1.0])


@given(st.lists(st.integers(0, 4), max_size=20))
def test_occurrences_count_what_came_before(items):
    expected = [items[:place].count(item) for place, item in enumerate(items)]
    assert occurrences(np.array(items, dtype=np.int64)).tolist() == expected


def keys_of(sampler, rank=0, world=1, epoch=0):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "rank_and_world_size", lambda: (rank, world))
        sampler.set_epoch(epoch)
        found = list(sampler)
        assert len(found) == len(sampler)
    return found


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("epoch", [0, 4])
def test_repeats_do_not_depend_on_the_number_of_processes(world, grouped, epoch):
    factors = FACTORS * 4
    shared = {
        "repeats": factors,
        "shuffle": True,
        "drop_last": True,
        "seed": 3,
        "groups": [k % 3 == 0 for k in range(32)] if grouped else None,
        "short_sides": [64, 96],
        "window": 5,
    }
    items = range(100, 132)
    alone = keys_of(EpochBatchSampler(items, 2 * world, **shared), epoch=epoch)
    ranks = [keys_of(EpochBatchSampler(items, 2, **shared), r, world, epoch) for r in range(world)]
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == alone
    assert len(alone) == int(sum(factors)) // (2 * world)
    keys = list(chain(*alone))
    for index in {key.index for key in keys}:
        copies = [key.occurrence for key in keys if key.index == index]
        assert copies == list(range(len(copies)))
        assert len(copies) <= math.ceil(factors[index - 100])
    if grouped:
        mixed = [len({(key.index - 100) % 3 == 0 for key in batch}) > 1 for batch in alone]
        assert sum(mixed) <= 1


def test_every_epoch_has_as_many_steps_and_other_copies():
    sampler = EpochBatchSampler(range(8), 1, shuffle=True, drop_last=True, repeats=FACTORS)
    epochs = [keys_of(sampler, epoch=epoch) for epoch in range(40)]
    assert {len(batches) for batches in epochs} == {12} == {len(sampler)}  # some draws have 13
    assert epochs[0] == keys_of(sampler)
    assert epochs[0] != epochs[1]
    seen = [key.index for batches in epochs for batch in batches for key in batch]
    rates = np.bincount(seen) / 40
    np.testing.assert_allclose(rates, np.array(FACTORS) * 12 / 12.45, atol=0.3)


def test_a_resumed_epoch_skips_what_is_done():
    sampler = EpochBatchSampler(range(8), 2, shuffle=True, drop_last=True, repeats=FACTORS)
    whole = keys_of(sampler, epoch=3)
    resumed = ResumableBatches(sampler)
    resumed.resume(3, 4)
    resumed.set_epoch(3)
    assert list(resumed) == whole[4:]


def test_factors_of_one_change_nothing():
    items = range(9)
    plain = EpochBatchSampler(items, 2, shuffle=True, drop_last=True)
    ones = EpochBatchSampler(items, 2, shuffle=True, drop_last=True, repeats=[1.0] * 9)
    counts = [len(keys_of(sampler)) for sampler in (plain, ones)]
    assert counts == [4, 4]
    seen = [key.index for batch in keys_of(ones) for key in batch]
    assert len(set(seen)) == 8
