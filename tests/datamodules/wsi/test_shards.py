"""Parts of a set of slides."""

import numpy as np
import pytest

from datamodules.wsi.shards import Shard, balanced, read_shard


def test_parts_of_log_normal_sizes_are_about_equal():
    for seed in range(5):
        drawn = np.random.default_rng(seed).lognormal(20, 1, 1000).astype(int)
        sizes = {f"slide_{number}": int(size) for number, size in enumerate(drawn)}
        loads = [sum(sizes[name] for name in part) for part in balanced(sizes, 16)]
        assert max(loads) <= 1.1 * np.mean(loads)


def test_every_slide_is_in_one_part_whatever_their_order():
    sizes = dict(zip("abcdefg", (5, 5, 5, 0, 9, 1, 2), strict=True))
    parts = balanced(sizes, 3)
    assert sorted(name for part in parts for name in part) == sorted(sizes)
    assert balanced(dict(reversed(sizes.items())), 3) == parts
    assert sorted(map(len, balanced({"a": 1}, 3))) == [0, 0, 1]


def test_no_part_is_larger_than_four_thirds_of_the_best():
    """Graham's bound, against all ways to part six slides."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        sizes = {str(n): int(v) for n, v in enumerate(generator.integers(1, 50, 6))}
        ways = np.indices((3,) * 6).reshape(6, -1).T
        values = np.array(list(sizes.values()))
        best = min(np.bincount(way, values, 3).max() for way in ways)
        found = max(sum(sizes[name] for name in part) for part in balanced(sizes, 3))
        assert best <= found <= 4 / 3 * best


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/4", "1/4/2", ""])
def test_what_is_no_shard(text):
    with pytest.raises(ValueError, match=r"shard must be NUMBER/COUNT .* such as 3/16"):
        read_shard(text)
    assert read_shard(" 4/4") == Shard(4, 4)
