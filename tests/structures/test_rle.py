"""Our run-length code against pycocotools, byte for byte."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structures import RLEMasks, rle


def reference(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def random_mask(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    mask = rng.random((height, width)) < rng.choice([0.0, 0.02, 0.3, 0.7, 1.0])
    if seed % 5 == 0:
        mask[:] = False
        mask[rng.integers(height), rng.integers(width)] = True
    return mask


SEEDS = st.integers(0, 10_000)


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_codec_is_byte_equal_to_pycocotools(seed):
    mask = random_mask(seed)
    expected = reference(mask)
    runs = rle.encode(mask)
    assert rle.to_bytes(runs) == expected["counts"]
    assert np.array_equal(rle.from_bytes(expected["counts"]), runs)
    assert np.array_equal(rle.decode(runs, mask.shape), mask)
    assert rle.area(runs) == coco_mask.area(expected)
    x1, y1, x2, y2 = rle.bounding_box(runs, mask.shape)
    assert coco_mask.toBbox(expected).tolist() == [x1, y1, x2 - x1, y2 - y1]


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.booleans())
def test_merge_is_byte_equal_to_pycocotools(seed, intersect):
    first = random_mask(seed)
    rng = np.random.default_rng(seed + 1)
    masks = [first, *(rng.random((2, *first.shape)) < 0.5)]
    ours = rle.merge([rle.encode(m) for m in masks], intersect)
    theirs = coco_mask.merge([reference(m) for m in masks], intersect=intersect)
    assert rle.to_bytes(ours) == theirs["counts"]


@settings(max_examples=200, deadline=None)
@given(SEEDS, st.integers(-45, 45), st.integers(-45, 45), st.integers(1, 50), st.integers(1, 50))
def test_window_equals_the_pasted_full_mask(seed, top, left, height, width):
    window = random_mask(seed)
    full = np.zeros((height + 200, width + 200), dtype=bool)
    full[100 + top : 100 + top + window.shape[0], 100 + left : 100 + left + window.shape[1]] = (
        window
    )
    full = full[100 : 100 + height, 100 : 100 + width]
    runs = rle.encode_window(window, top, left, (height, width))
    assert rle.to_bytes(runs) == reference(full)["counts"]


@pytest.mark.parametrize("pixels", ["empty", "full", "first", "last"])
def test_special_masks(pixels):
    mask = np.full((7, 5), pixels == "full")
    if pixels in ("first", "last"):
        mask.flat[0 if pixels == "first" else -1] = True
    assert rle.to_bytes(rle.encode(mask)) == reference(mask)["counts"]


def test_soft_mask_takes_the_threshold_itself():
    soft = np.array([[0.5, 0.49], [0.51, 0.0]])
    runs = rle.encode_soft(soft, 1, 2, (4, 5))
    expected = np.zeros((4, 5), dtype=bool)
    expected[1, 2] = expected[2, 2] = True
    assert np.array_equal(rle.decode(runs, (4, 5)), expected)


def test_long_runs_take_several_characters():
    mask = np.zeros((900, 1400), dtype=bool)
    mask[100:700, 300:1000] = True
    assert rle.to_bytes(rle.encode(mask)) == reference(mask)["counts"]


def test_packed_masks_round_trip_and_select():
    rng = np.random.default_rng(0)
    dense = rng.random((5, 11, 13)) < 0.4
    dense[2] = False
    packed = RLEMasks.from_dense(dense)
    records = packed.to_coco()
    for mask, record in zip(dense, records, strict=True):
        assert record["size"] == [11, 13]
        assert record["counts"].encode() == reference(mask)["counts"]
    again = RLEMasks.from_coco(records, (11, 13))
    assert np.array_equal(again.decode(), dense)
    assert np.array_equal(again.select([4, 1]).decode(), dense[[4, 1]])
    assert again.areas().tolist() == dense.sum((1, 2)).tolist()
    assert again.boxes()[2].tolist() == [0, 0, 0, 0]
    empty = RLEMasks.from_dense(np.zeros((0, 3, 4)))
    assert empty.to_coco() == []
    assert empty.decode().shape == (0, 3, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [("5 3", "alphabet"), ("P" * 3, "in the middle"), (b"\xff", "alphabet"), ("M", "negative")],
)
def test_broken_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        rle.from_bytes(text)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="runs cover 6 pixels"):
        rle.decode(np.array([6]), (2, 2))
    with pytest.raises(ValueError, match="different sizes"):
        rle.merge([np.array([4]), np.array([6])])
    record = RLEMasks.from_dense(np.ones((1, 2, 3))).to_coco()
    with pytest.raises(ValueError, match=r"mask 0 has size \[2, 3\]"):
        RLEMasks.from_coco(record, (3, 2))
