import numpy as np
import pytest

from datamodules.transforms.label_maps import LabelMaps
from structures import RLEMasks


def random_masks(count, size, seed):
    """Rectangles and noise that overlap; the last one may be empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), dtype=bool)
    for mask in masks[:-1]:
        top, left = rng.integers(0, size[0] - 2), rng.integers(0, size[1] - 2)
        height, width = rng.integers(1, 9, 2)
        part = mask[top : top + height, left : left + width]
        part[...] = rng.random(part.shape) < 0.8
    return masks


@pytest.mark.parametrize("seed", range(5))
def test_masks_come_back_and_overlaps_are_kept(seed):
    dense = random_masks(12, (17, 23), seed)
    maps = LabelMaps.from_rle(RLEMasks.from_dense(dense))
    assert maps.size == (17, 23)
    assert len(maps) == 12
    targets = maps.targets()
    kept = np.flatnonzero(dense.any(axis=(1, 2)))
    assert np.array_equal(targets.keep, kept)
    assert np.array_equal(targets.masks, dense[kept])


def test_masks_apart_share_a_layer_and_overlapping_ones_do_not():
    dense = np.zeros((3, 6, 6), dtype=bool)
    dense[0, :2], dense[1, 3:5], dense[2, 1:4] = True, True, True
    maps = LabelMaps.from_rle(RLEMasks.from_dense(dense))
    assert maps.layers.tolist() == [0, 0, 1]
    assert maps.values.tolist() == [1, 2, 1]


def test_more_instances_than_a_byte_can_number():
    dense = np.zeros((600, 30, 20), dtype=bool)
    dense.reshape(600, 600)[np.arange(600), np.arange(600)] = True
    maps = LabelMaps.from_rle(RLEMasks.from_dense(dense))
    assert maps.maps.shape[0] == 3
    assert np.array_equal(maps.targets().masks, dense)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_are_tight_and_half_open(seed):
    dense = random_masks(9, (20, 15), seed)
    targets = LabelMaps.from_rle(RLEMasks.from_dense(dense)).targets()
    for k, box in zip(targets.keep, targets.boxes, strict=True):
        rows, columns = np.nonzero(dense[k])
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == expected


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_cell_is_in_when_half_of_its_pixels_are(seed, stride):
    dense = random_masks(8, (18, 23), seed)
    targets = LabelMaps.from_rle(RLEMasks.from_dense(dense)).targets(stride)
    rows, columns = -(-18 // stride), -(-23 // stride)
    assert targets.masks.shape[1:] == (rows, columns)
    for k, mask in zip(targets.keep, targets.masks, strict=True):
        for r in range(rows):
            for c in range(columns):
                part = dense[k, r * stride : (r + 1) * stride, c * stride : (c + 1) * stride]
                assert mask[r, c] == (part.sum() >= stride * stride / 2)


def test_a_small_object_keeps_its_box_without_a_cell():
    dense = np.zeros((1, 8, 8), dtype=bool)
    dense[0, 3, 3] = True
    targets = LabelMaps.from_rle(RLEMasks.from_dense(dense)).targets(4)
    assert targets.boxes.tolist() == [[3, 3, 4, 4]]
    assert targets.masks.shape == (1, 2, 2)
    assert not targets.masks.any()


def test_no_instances():
    maps = LabelMaps.from_rle(RLEMasks.from_runs([], (7, 9)))
    targets = maps.targets(2)
    assert maps.size == (7, 9)
    assert targets.boxes.shape == (0, 4)
    assert targets.masks.shape == (0, 4, 5)
