import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
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
        recycle.key_value.weight.copy_(torch.cat([first, 3 * first]))
        recycle.out.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        recycle.out.bias.copy_(torch.tensor([1.0, 0.0]))
    features = torch.tensor([[1.0, -1.0], [3.0, 1.0], [-2.0, 0.0]])
    bags = BagBatch(features, torch.tensor([0, 3]), torch.tensor([0]), torch.tensor([0]))
    a = 1 / (2 + math.exp(-4))
    z = 3 * (2 * a - a * math.exp(-4))
    expected = torch.tensor([[[z + 1, -z]]])
    torch.testing.assert_close(recycle(bags), expected, rtol=0, atol=1e-4)  # eps of the norms


# Names and shapes of the authors' module, `modules/mhim_modules/merge.py` of their second version,
# for E = 512, k = 5 and 8 heads of 64, and the names here. `global_q` is the same tensor again.
AUTHORS = {
    "global_q_mm": ((1, 5, 512), "queries"),
    "norm.weight": ((512,), "norm.weight"),
    "norm.bias": ((512,), "norm.bias"),
    "attn.to_q.weight": ((512, 512), "query.weight"),
    "attn.to_kv.weight": ((1024, 512), "key_value.weight"),
    "attn.to_out.0.weight": ((512, 512), "out.weight"),
    "attn.to_out.0.bias": ((512,), "out.bias"),
}


def test_names_and_shapes_are_those_of_the_authors():
    state = GlobalRecycle(512, 5).state_dict()
    assert set(state) == {name for _, name in AUTHORS.values()}
    for shape, name in AUTHORS.values():
        assert state[name].numel() == math.prod(shape), name
        assert state[name].shape in (shape, shape[1:]), name


def normalised(row, norm):
    centred = row - row.sum() / row.numel()
    return centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias


def slow(recycle, rows, attention_mask=1.0, token_mask=1.0):
    """One bag from the authors' formulas: one head, query and instance at a time."""
    heads, inner = recycle.heads, recycle.query.out_features
    width = inner // heads
    tokens = []
    for k, query in enumerate(recycle.queries):
        asked = recycle.query.weight @ normalised(query, recycle.norm)
        parts = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            keys, values = recycle.key_value.weight[:inner], recycle.key_value.weight[inner:]
            told = [normalised(row, recycle.norm) for row in rows]
            products = [asked[own] @ (keys[own] @ h) * width**-0.5 for h in told]
            weights = torch.stack(products).exp() / torch.stack(products).exp().sum()
            if isinstance(attention_mask, torch.Tensor):
                weights = weights * attention_mask[:, k, head]
            parts.append(sum(a * (values[own] @ h) for a, h in zip(weights, told, strict=True)))
        tokens.append(recycle.out.weight @ torch.cat(parts) + recycle.out.bias)
    return torch.stack(tokens) * token_mask


@pytest.mark.parametrize("sizes", [[5], [4, 2], [5, 1, 3]])
def test_tokens_are_those_of_single_bags_written_out(sizes):
    recycle, bags = recycle_for(), bag_batch(sizes)
    expected = torch.stack([slow(recycle, bag.features) for bag in bags.bags()])
    tokens = recycle(bags)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=2e-6)
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
    # keys and values; products of the values with 8 queries would be 4 times as large
    assert largest.numel == 100 * 2 * (2 * 50)


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


def test_dropout_acts_on_the_attention_and_on_the_tokens():
    recycle, rows = recycle_for(dropout=0.5, tokens=3).train(), torch.randn(4, 6)
    bags = dataclasses.replace(bag_batch([4]), features=rows)
    torch.manual_seed(7)
    found = recycle(bags)[0]
    torch.manual_seed(7)
    masks = [F.dropout(torch.ones(shape), 0.5) for shape in ((4, 3, 2), (1, 3, 6))]
    assert all((mask == 0).any() and (mask == 2).any() for mask in masks)
    expected = slow(recycle, rows, masks[0], masks[1][0])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_weights_begin_with_glorots_normal_distribution():
    torch.manual_seed(0)
    recycle = GlobalRecycle(512, 5)
    for layer in (recycle.query, recycle.key_value, recycle.out):
        spread = math.sqrt(2 / sum(layer.weight.shape))
        assert layer.weight.std().item() == pytest.approx(spread, rel=0.01)
        assert layer.weight.abs().max().item() > 3.5 * spread  # not uniform
    assert not recycle.out.bias.any()


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
