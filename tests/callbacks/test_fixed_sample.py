import random

import pytest

from callbacks.fixed_sample import FixedSample, priority


@pytest.mark.parametrize("total", [1, 5, 8, 9, 100, 5000])
def test_keeps_the_smallest_priorities_in_any_order(total):
    wanted = sorted(sorted(range(total), key=priority)[:8])
    for seed in range(3):
        numbers = list(range(total))
        random.Random(seed).shuffle(numbers)
        sample = FixedSample(8)
        for number in numbers:
            sample.add(number, f"item {number}")
        assert sample.items() == [(n, f"item {n}") for n in wanted]


def test_processes_together_choose_what_one_chooses():
    parts = [FixedSample(4) for _ in range(3)]
    for number in range(100):
        parts[number % 3].add(number, number)
    merged = FixedSample(4)
    merged.merge(part.state() for part in parts)
    assert [n for n, _ in merged.items()] == sorted(sorted(range(100), key=priority)[:4])


@pytest.mark.parametrize("total", [40, 1000, 100_000])
def test_choice_is_spread_over_the_data_set(total):
    chosen = sorted(sorted(range(total), key=priority)[:8])
    assert chosen[0] == 0  # number 0 always comes first
    gaps = [b - a for a, b in zip(chosen, [*chosen[1:], total], strict=True)]
    # Three-distance theorem: gaps take at most three sizes, the largest the sum of the others.
    assert max(gaps) <= 2.7 * total / 8


def test_wants_tells_what_add_does():
    sample = FixedSample(2)
    order = sorted(range(10), key=priority)
    sample.add(order[5], "a")
    sample.add(order[3], "b")
    assert not sample.wants(order[3])  # held already
    assert not sample.wants(order[6])
    assert sample.wants(order[4])
    sample.add(order[4], "c")
    assert sample.state() == {order[3]: "b", order[4]: "c"}


def test_nothing_fits_into_a_sample_of_none():
    sample = FixedSample(0)
    sample.add(0, "a")
    assert sample.items() == []
    with pytest.raises(ValueError, match="at least 0, got -1"):
        FixedSample(-1)
