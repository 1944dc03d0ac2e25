"""RLE against dense masks and the COCO tools, on masks that hypothesis makes."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from structures.rle import (
    RLEMasks,
    area,
    bounding_box,
    decode,
    encode,
    encode_window,
    from_bytes,
    merge,
    to_bytes,
)

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
MASKS = hnp.arrays(bool, SHAPES)


def stacks(count):
    """Draw (k, h, w) masks of one size."""
    return SHAPES.flatmap(lambda shape: count.flatmap(lambda k: hnp.arrays(bool, (k, *shape))))


@given(MASKS)
def test_encode_decode_text_area_and_box(mask):
    runs = encode(mask)
    assert runs.sum() == mask.size
    assert (runs[1:] > 0).all()  # only the first run, of zeros, may be empty
    assert np.array_equal(decode(runs, mask.shape), mask)
    assert area(runs) == mask.sum()
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert to_bytes(runs) == theirs["counts"]
    assert from_bytes(theirs["counts"]).tolist() == runs.tolist()
    rows, columns = mask.nonzero()
    box = (0, 0, 0, 0)
    if rows.size:
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert bounding_box(runs, mask.shape) == box


@given(st.lists(st.integers(0, 2**40), max_size=30))
def test_text_of_any_run_lengths(lengths):
    """Also far beyond an image, with zeros in the middle and jumps of either sign."""
    runs = np.array(lengths, dtype=np.int64)
    assert from_bytes(to_bytes(runs)).tolist() == lengths
    masks = RLEMasks.from_runs([runs, runs[::-1]], (1, 1))
    texts = [to_bytes(runs).decode(), to_bytes(runs[::-1]).decode()]
    assert [record["counts"] for record in masks.to_coco()] == texts


@given(st.binary(max_size=30))
def test_any_bytes_are_run_lengths_or_a_value_error(text):
    try:
        runs = from_bytes(text)
    except ValueError:
        return
    assert runs.dtype == np.int64
    assert (runs >= 0).all()


@given(stacks(st.integers(1, 4)), st.booleans())
def test_merge(masks, intersect):
    combined = masks.all(axis=0) if intersect else masks.any(axis=0)
    merged = merge([encode(mask) for mask in masks], intersect)
    assert merged.tolist() == encode(combined).tolist()
    theirs = coco.merge(
        [coco.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks], intersect
    )
    assert to_bytes(merged) == theirs["counts"]


@given(MASKS, st.integers(-12, 12), st.integers(-12, 12), SHAPES)
def test_a_window_anywhere(window, top, left, size):
    """The dense image is filled pixel by pixel."""
    dense = np.zeros(size, dtype=bool)
    for row, column in zip(*window.nonzero(), strict=True):
        y, x = top + row, left + column
        if 0 <= y < size[0] and 0 <= x < size[1]:
            dense[y, x] = True
    assert encode_window(window, top, left, size).tolist() == encode(dense).tolist()


@given(stacks(st.integers(0, 5)), st.data())
def test_packed_masks(masks, data):
    packed = RLEMasks.from_dense(masks, masks.shape[1:])
    assert len(packed) == len(masks)
    assert np.array_equal(packed.decode(), masks)
    assert packed.areas().tolist() == masks.sum(axis=(1, 2)).tolist()
    again = RLEMasks.from_coco(packed.to_coco(), packed.size)
    assert np.array_equal(again.decode(), masks)
    assume(len(masks) > 0)
    chosen = data.draw(st.lists(st.integers(0, len(masks) - 1), max_size=4))
    assert np.array_equal(packed.select(chosen).decode(), masks[chosen])
