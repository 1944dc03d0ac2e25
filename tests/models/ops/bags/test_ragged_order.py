"""Order within segments against sorting each segment by itself."""

import pytest
import torch

from models.ops.bags.ragged_order import segment_order, segment_rank, segment_topk

OFFSETS = torch.tensor([0, 3, 3, 4, 8])  # the second segment is empty
VALUES = torch.tensor([3.0, 1.0, 2.0, 9.0, 5.0, 4.0, 5.0, -1.0])


def random_case(seed, columns):
    """Return values with many ties and random segments, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, 7, (6,), generator=generator)
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    shape = (int(sizes.sum()), columns) if columns else (int(sizes.sum()),)
    return torch.randint(0, 4, shape, generator=generator).float(), offsets


def columns_of(values):
    return [values] if values.ndim == 1 else list(values.unbind(1))


def test_by_hand():
    # 3 1 2 | - | 9 | 5 4 5 -1: places in rising order; the earlier of two fives comes first
    assert segment_order(VALUES, OFFSETS).tolist() == [1, 2, 0, 3, 7, 5, 4, 6]
    assert segment_rank(VALUES, OFFSETS).tolist() == [2, 0, 1, 0, 2, 1, 3, 0]
    # falling: 3 2 1 | 9 | 5 5 4 -1
    assert segment_order(VALUES, OFFSETS, descending=True).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert segment_rank(VALUES, OFFSETS, descending=True).tolist() == [0, 2, 1, 0, 0, 2, 1, 3]


@pytest.mark.parametrize("columns", [0, 1, 3])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_order_and_rank_as_sorting_each_segment(seed, columns, descending):
    values, offsets = random_case(seed, columns)
    order, rank = (f(values, offsets, descending) for f in (segment_order, segment_rank))
    assert order.shape == rank.shape == values.shape
    for column, its_order, its_rank in zip(*map(columns_of, (values, order, rank)), strict=True):
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            sign = -1 if descending else 1
            rows = sorted(range(start, end), key=lambda r: (sign * float(column[r]), r))
            assert its_order[start:end].tolist() == rows
            assert [int(its_rank[r]) for r in rows] == list(range(end - start))


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("columns", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_topk_as_each_segments_own(seed, columns, largest, k):
    values, offsets = random_case(seed, columns)
    rows, valid = segment_topk(values, offsets, k, largest)
    assert rows.shape == valid.shape == (6, k, columns) if columns else (6, k)
    parts = (columns_of(values), rows.unbind(2) if columns else [rows])
    masks = valid.unbind(2) if columns else [valid]
    for column, its_rows, its_mask in zip(*parts, masks, strict=True):
        for segment in range(6):
            start, end = offsets[segment : segment + 2].tolist()
            found = its_rows[segment][its_mask[segment]]
            assert its_mask[segment].tolist() == [place < end - start for place in range(k)]
            assert ((found >= start) & (found < end)).all()
            best = column[start:end].sort(descending=largest).values[:k]
            assert torch.equal(column[found], best)
            if start < end < start + k:
                assert (its_rows[segment, end - start :] == found[-1]).all()


def test_topk_of_one_bag_by_hand():
    rows, valid = segment_topk(torch.tensor([0.5, 2.0, 1.0]), torch.tensor([0, 3]), 5)
    assert rows.tolist() == [[1, 2, 0, 0, 0]]
    assert valid.tolist() == [[True, True, True, False, False]]


def test_values_picked_by_the_rows_have_gradients():
    values = VALUES.clone().requires_grad_()
    rows, valid = segment_topk(values, torch.tensor([0, 3, 8]), 2)
    (values[rows] * valid).sum().backward()
    # 3 and 2 of the first, 9 and the earlier 5 of the second
    assert values.grad.tolist() == [1, 0, 1, 1, 1, 0, 0, 0]
