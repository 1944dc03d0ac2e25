"""Masks packed into label maps against the dense masks, overlapping and empty ones included."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datamodules.transforms.label_maps import LabelMaps
from structures import RLEMasks

STACKS = st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: hnp.arrays(bool, shape)
)


def packed(masks):
    return LabelMaps.from_rle(RLEMasks.from_dense(masks, masks.shape[1:]))


@given(STACKS)
def test_masks_and_boxes_come_back(masks):
    maps = packed(masks)
    assert (len(maps), maps.size) == (len(masks), masks.shape[1:])
    found = maps.targets()
    kept = [k for k, mask in enumerate(masks) if mask.any()]
    assert found.keep.tolist() == kept
    assert np.array_equal(found.masks, masks[kept])
    for box, mask in zip(found.boxes.tolist(), masks[kept], strict=True):
        rows, columns = mask.nonzero()
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@given(STACKS)
def test_no_layer_more_than_needed(masks):
    """Instances that nobody touches share a layer; at most as many layers as lie on one pixel."""
    maps = packed(masks)
    deepest = int(masks.sum(axis=0).max(initial=0))
    assert deepest <= len(maps.maps) <= max(len(masks), 1)
    for first in range(len(masks)):
        for second in range(first):
            if (masks[first] & masks[second]).any():
                assert maps.layers[first] != maps.layers[second]


@given(STACKS, st.integers(1, 4))
def test_cells_of_a_stride(masks, stride):
    """A cell is in where at least half of its pixels are; beyond the border all are out."""
    found = packed(masks).targets(stride)
    for cells, mask in zip(found.masks, masks[found.keep], strict=True):
        for (row, column), cell in np.ndenumerate(cells):
            part = mask[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            assert cell == (2 * part.sum() >= stride * stride)


@given(STACKS, st.sampled_from(["rows", "columns", "turn"]))
def test_a_flip_of_the_maps_is_the_flip_of_every_mask(masks, kind):
    move = {
        "rows": lambda stack: stack[:, ::-1],
        "columns": lambda stack: stack[:, :, ::-1],
        "turn": lambda stack: np.rot90(stack, axes=(1, 2)),
    }[kind]
    maps = packed(masks)
    found = maps.with_maps(np.ascontiguousarray(move(maps.maps))).targets()
    assert np.array_equal(found.masks, move(masks)[found.keep])
