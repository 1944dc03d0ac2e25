import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ops.ragged import (
    segment_ids,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
    segment_weighted_sum,
)

OFFSETS = torch.tensor([0, 2, 2, 5])  # the second segment is empty
VALUES = torch.tensor([[1.0, -2.0], [3.0, 4.0], [0.5, 0.0], [-1.0, 7.0], [2.0, 7.0]])


def test_ids_skip_the_empty_segment():
    assert segment_ids(OFFSETS, 5).tolist() == [0, 0, 2, 2, 2]
    assert segment_ids(torch.tensor([0, 0, 1, 1]), 1).tolist() == [1]


def test_reductions_by_hand():
    assert segment_sum(VALUES, OFFSETS).tolist() == [[4, 2], [0, 0], [1.5, 14]]
    mean = torch.tensor([[2.0, 1.0], [0.0, 0.0], [0.5, 14 / 3]])
    torch.testing.assert_close(segment_mean(VALUES, OFFSETS), mean, rtol=0, atol=1e-7)
    assert segment_max(VALUES, OFFSETS).tolist() == [[3, 4], [-math.inf] * 2, [2, 7]]
    assert segment_sum(VALUES[:, 0], OFFSETS).tolist() == [4, 0, 1.5]


def test_tied_maxima_share_the_gradient():
    values = VALUES.clone().requires_grad_()
    segment_max(values, torch.tensor([0, 5])).sum().backward()
    assert values.grad.tolist() == [[0, 0], [1, 0], [0, 0], [0, 0.5], [0, 0.5]]


def test_softmax_by_hand():
    # log 1, log 3 -> 1/4, 3/4; one row alone -> 1; log 2, log 2, log 4 -> 1/4, 1/4, 1/2
    logits = torch.tensor([1.0, 3.0, 5.0, 2.0, 2.0, 4.0]).log()
    weights = segment_softmax(logits, torch.tensor([0, 2, 3, 6]))
    expected = torch.tensor([0.25, 0.75, 1.0, 0.25, 0.25, 0.5])
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)


def test_softmax_survives_huge_and_masked_logits():
    logits = torch.tensor([1e30, 1e30, -1e4, -1e4 - math.log(3), -math.inf])
    weights = segment_softmax(logits, torch.tensor([0, 2, 5]))
    expected = torch.tensor([0.5, 0.5, 0.75, 0.25, 0.0])
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=6),
    columns=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_every_reduction_equals_a_loop_over_segments(sizes, columns, seed):
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(sizes), columns, generator=random, dtype=torch.float64)
    weights = torch.rand(sum(sizes), 2, generator=random, dtype=torch.float64)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    parts = values.split(sizes)
    pooled = [w.T @ v for w, v in zip(weights.split(sizes), parts, strict=True)]
    close = {"rtol": 0, "atol": 1e-12}
    loop = torch.cat([part.softmax(0) for part in parts])
    torch.testing.assert_close(segment_softmax(values, offsets), loop, **close)
    loop = torch.stack([part.sum(0) for part in parts])
    torch.testing.assert_close(segment_sum(values, offsets), loop, **close)
    loop = torch.stack([part.sum(0) / max(len(part), 1) for part in parts])
    torch.testing.assert_close(segment_mean(values, offsets), loop, **close)
    result = segment_weighted_sum(values, weights, offsets)
    torch.testing.assert_close(result, torch.stack(pooled), **close)


@pytest.mark.parametrize("offsets", [OFFSETS, torch.tensor([0, 5])], ids=["three", "one"])
def test_gradients(offsets):
    random = torch.Generator().manual_seed(0)
    values = torch.randn(5, 2, generator=random, dtype=torch.float64).requires_grad_()
    weights = torch.randn(5, 3, generator=random, dtype=torch.float64).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda v: segment_softmax(v, offsets), [values])
    assert check(lambda v: segment_mean(v, offsets), [values])
    assert check(lambda v: segment_max(v, offsets).nan_to_num(neginf=0), [values])
    assert check(lambda v, w: segment_weighted_sum(v, w, offsets), [values, weights])


@pytest.mark.parametrize("offsets", [OFFSETS, torch.tensor([0, 5])], ids=["three", "one"])
def test_half_precision_is_computed_in_float32(offsets):
    # 2049 is no bfloat16 number, so a sum kept in bfloat16 would lose the last one
    values = torch.tensor([[2048.0], [1.0], [2048.0], [1.0], [0.0]], dtype=torch.bfloat16)
    ones = torch.ones(5, 1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = segment_sum(values, offsets)
        pooled = segment_weighted_sum(values, ones, offsets)
        weights = segment_softmax(values, offsets)
    assert sums.dtype == pooled.dtype == weights.dtype == torch.float32
    assert sums[0].item() == (2049 if len(offsets) == 4 else 4098)
    assert torch.equal(pooled[:, 0], sums)
