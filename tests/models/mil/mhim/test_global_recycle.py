import dataclasses
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.mil.mhim import GlobalRecycle
from models.mil.mhim.global_recycle import append_tokens
from structures import BagBatch

CLOSE = {"rtol": 0, "atol": 1e-6}


def bag_batch(sizes, width=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    return BagBatch(
        features=torch.randn(sum(sizes), width, generator=random),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.zeros(len(sizes), dtype=torch.int64),
        index=torch.arange(len(sizes)),
    )


def recycle_for(width=6, tokens=2, **options):
    torch.manual_seed(1)
    return GlobalRecycle(width, tokens, **({"heads": 2, "head_width": 4} | options)).eval()


def test_one_head_of_one_value_by_hand():
    # LN of (1, -1) is (1, -1) / sqrt(1 + eps), of (3, 1) likewise; of (-2, 0) it is (-1, 1).
    # W_q, W_k and W_v look at the first value: q = 2 x 1, keys 1, 1, -1, values 3, 3, -3; d = 1.
    # softmax of (2, 2, -2) = (a, a, c) with c / a = e^-4; z = 3 (2a - c), out z + 1 and -z.
    recycle = GlobalRecycle(2, 1, heads=1, head_width=1, dropout=0.0)
    first = torch.tensor([[1.0, 0.0]])
    with torch.no_grad():
        recycle.queries.copy_(torch.tensor([[5.0, 3.0]]))
        recycle.query.weight.copy_(2 * first)
        recycle.key.weight.copy_(first)
        recycle.value.weight.copy_(3 * first)
        recycle.out.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        recycle.out.bias.copy_(torch.tensor([1.0, 0.0]))
    features = torch.tensor([[1.0, -1.0], [3.0, 1.0], [-2.0, 0.0]])
    bags = BagBatch(features, torch.tensor([0, 3]), torch.tensor([0]), torch.tensor([0]))
    a = 1 / (2 + math.exp(-4))
    z = 3 * (2 * a - a * math.exp(-4))
    expected = torch.tensor([[[z + 1, -z]]])
    torch.testing.assert_close(recycle(bags), expected, rtol=0, atol=1e-4)  # eps of the norms


def slow(recycle, rows):
    """One bag, head by head and query by query."""
    heads, width = recycle.heads, recycle.key.out_features // recycle.heads
    h, q = recycle.instance_norm(rows), recycle.query_norm(recycle.queries)
    tokens = []
    for query in q:
        parts = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            keys, values = recycle.key(h)[:, own], recycle.value(h)[:, own]
            weights = (keys @ recycle.query(query)[own] / width**0.5).softmax(0)
            parts.append(weights @ values)
        tokens.append(recycle.out(torch.cat(parts)))
    return torch.stack(tokens)


@pytest.mark.parametrize("sizes", [[5], [4, 2], [5, 1, 3]])
def test_tokens_are_those_of_single_bags_written_out(sizes):
    recycle, bags = recycle_for(), bag_batch(sizes)
    expected = torch.stack([slow(recycle, bag.features) for bag in bags.bags()])
    tokens = recycle(bags)
    torch.testing.assert_close(tokens, expected, **CLOSE)
    torch.manual_seed(3)
    weights = torch.randn_like(tokens)
    found = torch.autograd.grad((tokens * weights).sum(), list(recycle.parameters()))
    wanted = torch.autograd.grad((expected * weights).sum(), list(recycle.parameters()))
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that anything returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        parts = result if isinstance(result, tuple | list) else [result]
        self.numel = max([self.numel, *(t.numel() for t in parts if isinstance(t, torch.Tensor))])
        return result


@pytest.mark.parametrize("sizes", [[100], [40, 60]])
def test_nothing_has_the_size_of_instances_times_queries_times_width(sizes):
    recycle, bags = recycle_for(tokens=8, head_width=50), bag_batch(sizes)
    with Largest() as largest:
        recycle(bags).sum().backward()
    assert largest.numel == 100 * 2 * 50  # keys; their products by query would be 8 times as large


def test_queries_are_a_buffer_within_the_bound():
    recycle = GlobalRecycle(512, 10)
    bound = math.sqrt(6 / (3 * 16 * 16 + 512))
    assert recycle.queries.abs().max().item() <= bound
    assert recycle.queries.abs().max().item() > 0.99 * bound
    assert recycle.queries.mean().item() == pytest.approx(0, abs=0.01)
    assert "queries" in recycle.state_dict()
    assert "queries" not in dict(recycle.named_parameters())


def test_queries_move_by_the_mean_token():
    # .9 x 2 + .1 x (8 / 4) = 2 and .9 x 1 + .1 x (20 / 4) = 1.4
    recycle = GlobalRecycle(2, 1, heads=1, head_width=1, momentum=0.9)
    recycle.queries.copy_(torch.tensor([[2.0, 1.0]]))
    recycle.update_queries(torch.tensor([[8.0, 20.0]]), bags=4)
    torch.testing.assert_close(recycle.queries, torch.tensor([[2.0, 1.4]]), **CLOSE)


def test_dropout_acts_on_the_tokens():
    recycle, bags = recycle_for(dropout=0.5, tokens=200), bag_batch([4])
    plain, dropped = recycle(bags), recycle.train()(bags)
    gone = dropped == 0
    assert 0.3 < gone.float().mean().item() < 0.7
    torch.testing.assert_close(dropped[~gone], 2 * plain[~gone], **CLOSE)


def test_half_precision_stays_close():
    for sizes in ([40], [30, 9]):
        recycle, bags = recycle_for(), bag_batch(sizes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens = recycle(bags)
        torch.testing.assert_close(tokens.float(), recycle(bags), rtol=0, atol=3e-2)


def test_tokens_come_after_the_instances_of_their_bag():
    bags = dataclasses.replace(
        bag_batch([2, 1], width=1),
        features=torch.tensor([[1.0], [2.0], [3.0]]),
        coords=torch.zeros(3, 2, dtype=torch.int64),
        instance_labels=torch.tensor([1, 0, 1]),
        instance_index=torch.tensor([4, 7, 2]),
    )
    joined = append_tokens(bags, torch.tensor([[[10.0], [11.0]], [[20.0], [21.0]]]))
    assert joined.features.flatten().tolist() == [1, 2, 10, 11, 3, 20, 21]
    assert joined.offsets.tolist() == [0, 4, 7]
    assert joined.instance_labels.tolist() == [1, 0, -1, -1, 1, -1, -1]
    assert joined.numbers().tolist() == [4, 7, -1, -2, 2, -1, -2]
    assert joined.coords is None
    assert append_tokens(bag_batch([2]), torch.zeros(1, 1, 6)).instance_labels is None


def test_wrong_arguments_are_refused():
    for options in ({"tokens": 0}, {"momentum": 1.5}, {"heads": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            recycle_for(**options)
    with pytest.raises(ValueError, match="embedded to 6 values, but GlobalRecycle has width=5"):
        recycle_for(width=5)(bag_batch([3]))
