"""Numbers of the study against slow ways to say the same."""

import numpy as np
import pytest

from benchmarks.robustness.cells import DRAWS, Cell
from benchmarks.robustness.summary import Number, numbers, over_seeds

GROUPS = {"noise": ["a", "b"], "blur": ["c"], "c": ["c"]}  # c has a column of its own as well
LEVELS = (1, 2, 3, 4, 5)


def made(seed):
    """Return random cells."""
    random = np.random.default_rng(seed)
    places = [("clean", 0), ("domain:dark", 0), *((n, s) for n in "abc" for s in LEVELS)]
    return {
        place: Cell({"segm_map": float(random.uniform())}, random.uniform(size=DRAWS))
        for place in places
    }


def test_numbers_of_a_run():
    cells = made(0)
    found = numbers(cells, GROUPS, LEVELS, ["dark"])

    def value(name, level):
        return cells[name, level].metrics["segm_map"]

    def draws(name, level):
        return cells[name, level].draws

    every = [(name, level) for name in "abc" for level in LEVELS]
    for number, get in ((0, value), (1, draws)):
        mpc = sum(get(*place) for place in every) / 15
        np.testing.assert_allclose(found["mpc"][number], mpc)
        np.testing.assert_allclose(found["rpc"][number], mpc / get("clean", 0))
        blur = sum(get("c", level) for level in LEVELS) / 5
        np.testing.assert_allclose(found["blur"][number], blur)
        share = get("domain:dark", 0) / get("clean", 0)
        np.testing.assert_allclose(found["dark / clean"][number], share)
    short = numbers(cells, GROUPS, (1, 5), [])["noise"].value
    assert short == pytest.approx(np.mean([value(n, s) for n in "ab" for s in (1, 5)]))


def test_one_seed_has_the_interval_of_the_images():
    draws = np.random.default_rng(0).normal(size=DRAWS)
    found = over_seeds([Number(0.5, draws)])
    assert found[1:3] == pytest.approx(np.quantile(draws, [0.025, 0.975]))
    assert found[3:] == (1, 1)


def test_seeds_are_resampled_as_well():
    values = [0.1, 0.4, 0.7]
    found = over_seeds([Number(v, np.full(DRAWS, v)) for v in values])
    assert found.value == pytest.approx(0.4)
    assert (found.low, found.high) == pytest.approx((0.1, 0.7), abs=0.11)  # of means of 3 of 3


def test_differences_are_paired():
    random = np.random.default_rng(1)
    ones = [Number(v, v + random.normal(size=DRAWS)) for v in (0.2, 0.5)]
    others = [Number(one.value - 0.1, one.draws - 0.1) for one in ones]
    found = over_seeds(ones, others)
    assert found == pytest.approx((0.1, 0.1, 0.1, 2, 2))
    assert over_seeds(others, ones).above == 0


def test_a_share_of_nothing_is_undefined():
    nothing = Number(0.0, np.zeros(3))
    share = nothing.share_of(nothing)
    assert np.isnan(share.value)
    assert np.isnan(share.draws).all()
