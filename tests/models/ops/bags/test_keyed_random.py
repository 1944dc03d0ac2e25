"""Random numbers of instances: the hash by a second implementation, and what it ignores."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from models.ops.bags.keyed_random import draw_key, random_order, random_uniform
from structures import BagBatch

WORD = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def splitmix(state):
    """SplitMix64 in Python's integers: the output that follows a state."""
    z = (state + GAMMA) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def by_hand(key, bag, number, stream=0):
    mixed = splitmix(splitmix((key + stream * GAMMA) & WORD) ^ bag)
    z = splitmix(mixed ^ splitmix(number))
    return z - 2**64 if z >= 2**63 else z


def bags_of(sizes, index=None):
    return BagBatch(
        features=torch.zeros(sum(sizes), 1),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.zeros(len(sizes), dtype=torch.int64),
        index=torch.arange(len(sizes)) if index is None else torch.tensor(index),
    )


def test_the_reference_is_splitmix64():
    # the first outputs of the published generator from state 0
    found = [splitmix((k * GAMMA) & WORD) for k in range(3)]
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("key", [0, 1, 2**62 - 1, 2**63 + 12345])
@pytest.mark.parametrize("stream", [0, 1, 7])
def test_numbers_by_hand(key, stream):
    bags = bags_of([2, 3], index=[40, 3])
    wanted = [by_hand(key, *place, stream) for place in [(40, 0), (40, 1), (3, 0), (3, 1), (3, 2)]]
    assert random_order(bags, key, stream).tolist() == wanted
    shares = [((w % 2**64) >> 40) / 2**24 for w in wanted]
    assert random_uniform(bags, key, stream).tolist() == shares


def test_neither_batch_mates_nor_missing_instances_matter():
    bags = bags_of([5, 1, 9], index=[7, 2, 100])
    together = random_order(bags, 11)
    apart = torch.cat([random_order(bag, 11) for bag in bags.bags()])
    assert torch.equal(together, apart)
    kept = torch.rand(15, generator=torch.Generator().manual_seed(0)) < 0.6
    assert torch.equal(random_order(bags.keep(kept), 11), together[kept])
    order = torch.tensor([4, 3, 2, 1, 0])
    turned = dataclasses.replace(bags.bag(0), instance_index=order)
    assert torch.equal(random_order(turned, 11), together[:5][order])


def test_uniform_in_every_bag_and_over_neighbouring_keys():
    big = random_uniform(bags_of([20_000]), 3).numpy()
    assert stats.kstest(big, "uniform").pvalue > 0.01
    first = [
        float(random_uniform(bags_of([1], index=[b]), k)) for b in range(50) for k in range(50)
    ]
    assert stats.kstest(np.array(first), "uniform").pvalue > 0.01
    # pairs of neighbours fill the square evenly: 16 x 16 cells of 10 000 pairs
    cells = np.histogram2d(big[::2], big[1::2], bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.ravel()).pvalue > 0.01
    assert 0 <= big.min() < 1e-3
    assert 0.999 < big.max() < 1


@pytest.mark.parametrize("other", [{"key": 6}, {"stream": 1}, {"index": [1]}])
def test_keys_streams_and_bags_have_nothing_in_common(other):
    one = random_uniform(bags_of([20_000], index=[0]), 5, 0)
    bags = bags_of([20_000], index=other.get("index", [0]))
    two = random_uniform(bags, other.get("key", 5), other.get("stream", 0))
    assert float((one == two).float().mean()) < 1e-3
    correlation = torch.corrcoef(torch.stack([one, two]))[0, 1]
    assert abs(float(correlation)) < 0.03  # four standard deviations of 20 000 pairs


def test_a_stream_is_not_the_next_key():
    bags = bags_of([50])
    seen = {tuple(random_order(bags, k, s).tolist()) for k in range(6) for s in range(6)}
    assert len(seen) == 36


def test_keys_come_from_the_seed():
    torch.manual_seed(4)
    first = [draw_key() for _ in range(100)]
    torch.manual_seed(4)
    assert [draw_key() for _ in range(100)] == first
    assert len(set(first)) == 100
    assert 0 <= min(first) < 2**58 < 2**61 < max(first) < 2**62
