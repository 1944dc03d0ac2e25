"""Weights of a resize and windows of masks; whole predictions are in seg/queries/test_instances."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.ops.masks.resized import _resize, resize_to_rle


@pytest.mark.parametrize(
    ("old", "new"), [(1, 1), (1, 5), (5, 1), (2, 3), (7, 7), (160, 640), (24, 19), (333, 1000)]
)
def test_weights_are_those_of_interpolate(old, new):
    index, weights = _resize(old, new, torch.float32)
    dense = torch.zeros(new, old).scatter_add_(1, index, weights)
    expected = functional.interpolate(torch.eye(old)[None], size=new, mode="linear")[0].T
    assert torch.equal(dense, expected)
    assert bool((index.diff(dim=0) >= 0).all()) and bool((index.diff(dim=1) >= 0).all())


def test_a_single_positive_cell_is_found_at_each_place():
    maps = torch.full((20, 4, 5), -1.0)
    maps.view(20, 20).fill_diagonal_(3.0)
    masks, quality = resize_to_rle(maps, (16, 20), (15, 18), (45, 36))
    full = functional.interpolate(maps[None], (16, 20), mode="bilinear")
    full = functional.interpolate(full[..., :15, :18], (45, 36), mode="bilinear")[0]
    assert np.array_equal(masks.decode(), (full > 0).numpy())
    means = torch.stack([one.sigmoid()[one > 0].mean() for one in full])
    torch.testing.assert_close(quality, means)


def test_cells_that_are_cut_off_and_empty_masks_give_empty_masks():
    maps = torch.full((2, 4, 8), -1.0)
    maps[0, :, 6:] = 5.0
    masks, quality = resize_to_rle(maps, (16, 32), (16, 16), (40, 40))
    assert masks.areas().tolist() == [0, 0] == quality.tolist()
    masks, quality = resize_to_rle(maps[:0], (16, 32), (16, 16), (40, 40))
    assert len(masks) == len(quality) == 0
