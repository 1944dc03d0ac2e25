import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ops.bags.ragged import (
    segment_counts,
    segment_ids,
    segment_log_softmax,
    segment_logsumexp,
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


def test_rows_are_counted_in_any_order():
    ids = torch.tensor([3, 0, 3, 1, 3])
    assert segment_counts(ids, 5).tolist() == [1, 1, 0, 3, 0]
    chosen = torch.tensor([True, False, True, True, False])
    assert segment_counts(ids, 5, chosen).tolist() == [0, 1, 0, 2, 0]
    assert segment_counts(ids[:0], 2).tolist() == [0, 0]


def test_reductions_by_hand():
    assert segment_sum(VALUES, OFFSETS).tolist() == [[4, 2], [0, 0], [1.5, 14]]
    mean = torch.tensor([[2.0, 1.0], [0.0, 0.0], [0.5, 14 / 3]])
    torch.testing.assert_close(segment_mean(VALUES, OFFSETS), mean, rtol=0, atol=1e-7)
    assert segment_max(VALUES, OFFSETS).tolist() == [[3, 4], [-math.inf] * 2, [2, 7]]
    assert segment_sum(VALUES[:, 0], OFFSETS).tolist() == [4, 0, 1.5]


def test_one_segment_by_hand():
    one, none = torch.tensor([0, 5]), torch.tensor([0, 0])
    assert segment_sum(VALUES, one).tolist() == [[5.5, 16]]
    assert segment_max(VALUES, one).tolist() == [[3, 7]]
    assert segment_max(VALUES[:, 0], one).tolist() == [3]
    assert segment_max(VALUES[:1].half(), torch.tensor([0, 1])).dtype == torch.float32
    assert segment_sum(VALUES[:0], none).tolist() == [[0, 0]]
    assert segment_max(VALUES[:0], none).tolist() == [[-math.inf] * 2]


def test_tied_maxima_share_the_gradient():
    for offsets in (torch.tensor([0, 5]), torch.tensor([0, 5, 5])):
        values = VALUES.clone().requires_grad_()
        segment_max(values, offsets)[0].sum().backward()
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


def test_the_sum_of_many_small_rows_beside_a_large_one_is_exact():
    """Rows are added in float64: 2^24 + 1 is 2^24 in float32, however often 1 is added."""
    values = torch.cat([torch.tensor([2.0**24]), torch.ones(1000), torch.tensor([3.0])])
    offsets = torch.tensor([0, 1001, 1002])
    assert segment_sum(values, offsets).tolist() == [2**24 + 1000, 3]
    columns = torch.stack([values, 2 * values], dim=1)
    assert segment_sum(columns, offsets).tolist() == [[2**24 + 1000, 2**25 + 2000], [3, 6]]
    in_float32 = torch.zeros(2).index_add(0, segment_ids(offsets, 1002), values)
    assert in_float32.tolist() == [2**24, 3]  # what the values would be without it


def test_logsumexp_and_log_softmax_by_hand():
    # 1 + 3 = 4; 5 alone; 2 + 2 + 4 = 8
    logits, offsets = torch.tensor([1.0, 3.0, 5.0, 2.0, 2.0, 4.0]).log(), torch.tensor([0, 2, 3, 6])
    sums = torch.tensor([4.0, 5.0, 8.0]).log()
    torch.testing.assert_close(segment_logsumexp(logits, offsets), sums, rtol=0, atol=1e-6)
    shares = torch.tensor([0.25, 0.75, 1.0, 0.25, 0.25, 0.5]).log()
    torch.testing.assert_close(segment_log_softmax(logits, offsets), shares, rtol=0, atol=1e-6)
    # columns are apart: the second is the first with every logit 7 higher
    both = torch.stack([logits, logits + 7], dim=1)
    torch.testing.assert_close(segment_logsumexp(both, offsets)[:, 1], sums + 7, rtol=0, atol=1e-6)
    assert segment_log_softmax(both, offsets).shape == (6, 2)


def test_logsumexp_survives_numbers_whose_exponentials_do_not():
    values = torch.tensor([1000.0, 1000.0, -1000.0, -1000.0 + math.log(3)])
    offsets = torch.tensor([0, 2, 4])
    sums = torch.tensor([1000 + math.log(2), -1000 + math.log(4)])
    torch.testing.assert_close(segment_logsumexp(values, offsets), sums, rtol=0, atol=1e-4)
    far = segment_log_softmax(torch.tensor([0.0, -500.0, 0.0]), torch.tensor([0, 2, 3]))
    assert far.tolist() == [0, -500, 0]  # the softmax itself is 0 in single precision


@pytest.mark.parametrize("sizes", [[5], [1, 4, 2]], ids=["one", "three"])
def test_logarithms_equal_a_loop_over_segments_also_in_gradient(sizes):
    random = torch.Generator().manual_seed(0)
    values = torch.randn(sum(sizes), 3, generator=random, dtype=torch.float64).requires_grad_()
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    parts = values.split(sizes)
    close = {"rtol": 0, "atol": 1e-12}
    loop = torch.stack([part.logsumexp(0) for part in parts])
    torch.testing.assert_close(segment_logsumexp(values, offsets), loop, **close)
    loop = torch.cat([part.log_softmax(0) for part in parts])
    torch.testing.assert_close(segment_log_softmax(values, offsets), loop, **close)
    assert torch.autograd.gradcheck(lambda v: segment_logsumexp(v, offsets), [values])
    assert torch.autograd.gradcheck(lambda v: segment_log_softmax(v, offsets), [values])


def test_logarithms_of_half_precision_are_computed_in_float32():
    values = torch.zeros(300, dtype=torch.bfloat16)
    offsets = torch.tensor([0, 300])
    assert segment_logsumexp(values, offsets).item() == pytest.approx(math.log(300), abs=1e-6)
    assert segment_log_softmax(values, offsets).dtype == torch.float32


@pytest.mark.parametrize("columns", [1, 3, 40])
def test_weighted_sums_of_many_segments_and_columns(columns):
    """However they are computed: by one matrix product or row by row."""
    random = torch.Generator().manual_seed(1)
    sizes = [3, 0, 5, 1]
    values = torch.randn(9, 2, generator=random, dtype=torch.float64)
    weights = torch.randn(9, columns, generator=random, dtype=torch.float64)
    loop = [w.T @ v for w, v in zip(weights.split(sizes), values.split(sizes), strict=True)]
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    found = segment_weighted_sum(values, weights, offsets)
    torch.testing.assert_close(found, torch.stack(loop), rtol=0, atol=1e-12)
