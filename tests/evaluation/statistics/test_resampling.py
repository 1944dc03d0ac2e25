"""Draws with replacement from strata, and intervals of percentiles."""

import math

import numpy as np
import pytest

from evaluation.statistics.resampling import draw_counts, percentile_interval

STRATA = [np.array([0, 3, 4]), np.array([1]), np.array([2, 5])]


def test_every_draw_has_the_size_of_each_stratum():
    blocks = list(draw_counts(STRATA, draws=25, seed=0, per_block=10))
    assert [len(block) for block in blocks] == [10, 10, 5]
    counts = np.concatenate(blocks)
    for members in STRATA:
        assert (counts[:, members].sum(axis=1) == members.size).all()
    assert (counts[:, 0] != 1).any()  # with replacement


def test_the_seed_fixes_the_draws():
    one, same, other = (next(draw_counts(STRATA, 20, seed, 20)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_draws_of_one_stratum_do_not_depend_on_blocks():
    members = [np.arange(7)]
    (whole,) = draw_counts(members, 50, 1, per_block=50)
    np.testing.assert_array_equal(np.concatenate(list(draw_counts(members, 50, 1, 3))), whole)


def test_the_counts_are_those_of_the_generator_by_hand():
    """Block by block and in a block stratum by stratum, as in records written before."""
    random = np.random.default_rng(6)
    expected = []
    for rows in (2, 1):
        block = np.zeros((rows, 6), dtype=np.int64)
        for members in STRATA:
            for row, taken in enumerate(random.integers(members.size, size=(rows, members.size))):
                np.add.at(block[row], members[taken], 1)
        expected.append(block)
    for block, by_hand in zip(draw_counts(STRATA, 3, 6, per_block=2), expected, strict=True):
        np.testing.assert_array_equal(block, by_hand)


def test_units_are_drawn_evenly():
    (counts,) = draw_counts([np.arange(4)], 20_000, 0, 20_000)
    # a count is binomial (4, 1/4): mean 1, variance 3/4
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=4 * math.sqrt(0.75 / 20_000))
    assert counts.var() == pytest.approx(0.75, abs=0.02)


def test_the_interval_leaves_out_what_is_undefined():
    values = np.array([*range(101), np.nan, np.inf], dtype=float)
    assert percentile_interval(values, 0.9) == pytest.approx((5.0, 95.0))
    assert all(map(math.isnan, percentile_interval(np.array([np.nan]), 0.9)))
