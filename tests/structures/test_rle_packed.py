"""Operations on packs of masks against the same on dense masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from structures import RLEMasks, rle_packed
from structures.rle_packed import areas_in, combine, concatenate, flip, intervals, overlaps, place

STACKS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7).flatmap(
    lambda shape: st.integers(0, 5).flatmap(lambda k: hnp.arrays(bool, (k, *shape)))
)


def pack(dense):
    return RLEMasks.from_dense(dense, dense.shape[1:])


def assert_is(found, dense):
    """The very runs that encoding the dense masks gives, not only the same pixels."""
    expected = pack(np.asarray(dense, dtype=bool))
    assert found.size == expected.size
    assert found.offsets.tolist() == expected.offsets.tolist()
    assert found.runs.tolist() == expected.runs.tolist()


@given(STACKS)
def test_intervals_round_trip(dense):
    masks = pack(dense)
    assert_is(rle_packed.from_intervals(intervals(masks), len(dense), masks.size), dense)


@given(STACKS)
def test_flips(dense):
    assert_is(flip(pack(dense), "horizontal"), dense[:, :, ::-1])
    assert_is(flip(pack(dense), "vertical"), dense[:, ::-1])


@given(STACKS, st.integers(-8, 8), st.integers(-8, 8), st.integers(1, 9), st.integers(1, 9))
def test_place_moves_and_cuts(dense, top, left, height, width):
    canvas = np.zeros((len(dense), 40, 40), dtype=bool)
    canvas[:, 10 + top : 10 + top + dense.shape[1], 10 + left : 10 + left + dense.shape[2]] = dense
    expected = canvas[:, 10 : 10 + height, 10 : 10 + width]
    assert_is(place(pack(dense), top, left, (height, width)), expected)


@given(STACKS, st.integers(0, 99))
def test_rectangles_are_taken_out(dense, seed):
    random = np.random.default_rng(seed)
    low = random.integers(0, 5, (len(dense), 2))
    boxes = np.concatenate((low, low + random.integers(0, 4, (len(dense), 2))), axis=1)
    expected = dense.copy()
    for mask, (x1, y1, x2, y2) in zip(expected, boxes, strict=True):
        mask[y1:y2, x1:x2] = False
    assert_is(rle_packed.without(pack(dense), boxes), expected)


@given(STACKS, st.integers(0, 99))
def test_pairwise_areas(dense, seed):
    random = np.random.default_rng(seed)
    count = 8 if len(dense) else 0
    pairs = random.integers(0, max(len(dense), 1), (count, 2))
    common = [(dense[a] & dense[b]).sum() for a, b in pairs]
    assert overlaps(pack(dense), pairs).tolist() == common
    low, high = random.integers(0, 5, (count, 2)), random.integers(3, 9, (count, 2))
    boxes = np.concatenate((low, high), axis=1)
    inside = [
        dense[k, y1:y2, x1:x2].sum() for k, (x1, y1, x2, y2) in zip(pairs[:, 0], boxes, strict=True)
    ]
    assert areas_in(pack(dense), pairs[:, 0], boxes).tolist() == inside


@given(STACKS, st.integers(0, 99))
def test_unions_and_votes_by_group(dense, seed):
    random = np.random.default_rng(seed)
    groups = random.integers(0, 3, len(dense))
    weights = random.integers(1, 5, len(dense))
    needed = random.integers(1, 8, 4)  # of the last group there is no mask
    votes = np.zeros((4, *dense.shape[1:]), dtype=int)
    for mask, group, weight in zip(dense, groups, weights, strict=True):
        votes[group] += weight * mask
    assert_is(combine(pack(dense), groups, np.ones(4, int)), votes > 0)
    assert_is(combine(pack(dense), groups, needed, weights), votes >= needed[:, None, None])


def test_pairs_in_several_chunks(monkeypatch):
    monkeypatch.setattr(rle_packed, "_CHUNK", 7)
    random = np.random.default_rng(0)
    dense = random.random((6, 9, 5)) < 0.4
    dense[2] = False
    pairs = random.integers(0, 6, (40, 2))
    expected = [(dense[a] & dense[b]).sum() for a, b in pairs]
    assert overlaps(pack(dense), pairs).tolist() == expected
    rectangles = np.tile([1, 2, 4, 8], (40, 1))
    inside = dense[pairs[:, 0], 2:8, 1:4].sum(axis=(1, 2))
    assert areas_in(pack(dense), pairs[:, 0], rectangles).tolist() == inside.tolist()


def test_packs_are_joined_and_must_be_of_one_size():
    dense = np.random.default_rng(1).random((5, 4, 3)) < 0.5
    parts = [pack(dense[:2]), pack(dense[2:2]), pack(dense[2:])]
    assert_is(concatenate(parts, (4, 3)), dense)
    assert len(concatenate([], (4, 3))) == 0
    with pytest.raises(ValueError, match=r"size \(4, 3\) with masks of size \(3, 4\)"):
        concatenate(parts, (3, 4))
