import numpy as np
import pytest

from datamodules.transforms.cutouts import Cutout, cut_out, cutout_targets, join_cutouts
from datamodules.transforms.label_maps import LabelMaps
from structures import RLEMasks


def random_masks(count, size, rng):
    masks = np.zeros((count, *size), dtype=bool)
    for mask in masks:
        top, left = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
        window = mask[top : top + rng.integers(1, 12), left : left + rng.integers(1, 12)]
        window[:] = rng.integers(0, 2, window.shape)
        window[0, 0] = True
    return masks


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8, 17])
@pytest.mark.parametrize("size", [(32, 48), (37, 51)])
def test_targets_are_those_of_label_maps_and_of_counting(stride, size):
    rng = np.random.default_rng(stride)
    masks = random_masks(12, size, rng)
    maps = LabelMaps.from_rle(RLEMasks.from_dense(masks))
    cutouts = cut_out(maps)
    found, expected = cutout_targets(cutouts, size, stride), maps.targets(stride)
    assert np.array_equal(found.keep, expected.keep)
    assert np.array_equal(found.boxes, expected.boxes)
    assert np.array_equal(found.masks, expected.masks)
    for k, mask in enumerate(masks):
        for row in range(found.masks.shape[1]):
            for column in range(found.masks.shape[2]):
                cell = mask[
                    row * stride : (row + 1) * stride, column * stride : (column + 1) * stride
                ]
                assert found.masks[k, row, column] == (2 * cell.sum() >= stride * stride)


def test_overlapping_masks_and_more_than_a_layer_holds_come_back():
    rng = np.random.default_rng(0)
    masks = random_masks(600, (40, 60), rng)
    cutouts = [Cutout(m, 0, 0).tight() for m in masks]
    maps = join_cutouts(cutouts, (40, 60))
    assert np.array_equal(maps.targets().masks, masks)
    again = cut_out(maps)
    for one, two in zip(cutouts, again, strict=True):
        assert (one.top, one.left) == (two.top, two.left)
        assert np.array_equal(one.mask, two.mask)


def test_nothing_and_vanished_masks():
    empty = join_cutouts([], (5, 7))
    assert empty.size == (5, 7)
    assert len(empty) == 0
    assert cut_out(empty) == []
    targets = cutout_targets([], (5, 7), 4)
    assert targets.boxes.shape == (0, 4)
    assert targets.masks.shape == (0, 2, 2)
    gone = LabelMaps(np.zeros((1, 5, 7), dtype=np.uint8), np.array([0]), np.array([3]))
    assert cut_out(gone) == [None]


def test_tight_by_hand():
    mask = np.zeros((6, 9), dtype=bool)
    mask[2, 3] = mask[4, 6] = True
    found = Cutout(mask, 10, 20).tight()
    assert (found.top, found.left, found.mask.shape) == (12, 23, (3, 4))
    assert found.place == (slice(12, 15), slice(23, 27))
    assert Cutout(mask[:2], 0, 0).tight() is None
    assert Cutout(mask[:0], 0, 0).tight() is None
    assert Cutout(mask[:, :0], 0, 0).tight() is None
