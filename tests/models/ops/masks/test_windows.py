"""Mask targets in windows against loops over cells and pixels."""

import itertools

import pytest
import torch

from models.ops.masks.windows import mask_windows


def random_masks(seed, objects=7, batch=2, height=24, width=32):
    generator = torch.Generator().manual_seed(seed)
    corner = (torch.rand(objects, 2, generator=generator) * torch.tensor([width, height])).floor()
    size = 1 + (torch.rand(objects, 2, generator=generator) * 20).floor()
    limit = torch.tensor([width, height]).float()
    boxes = torch.cat([corner, torch.minimum(corner + size, limit)], dim=1)
    masks = torch.rand(objects, height, width, generator=generator) < 0.7
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
        outside = torch.ones_like(mask)
        outside[y1:y2, x1:x2] = False
        mask[outside] = False
    images = torch.randint(0, batch, (objects,), generator=generator).sort().values
    return boxes, images, masks


def slow_cells(masks, factor):
    """Return (M, h, w) bool, in where at least half of the pixels are."""
    count, height, width = masks.shape
    cells = torch.zeros(count, -(-height // factor), -(-width // factor), dtype=torch.bool)
    for m in range(count):
        for y in range(cells.shape[1]):
            for x in range(cells.shape[2]):
                part = masks[m, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
                cells[m, y, x] = part.sum() * 2 >= factor**2
    return cells


def slow_windows(boxes, images, cells, size, stride, smallest_owns):
    """Return a list of {cell number: target} of the objects."""
    _, height, width = size
    areas, found = [int(cell.sum()) for cell in cells], []
    for o, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        window = {}
        for y in range(height):
            for x in range(width):
                if not (x1 <= stride * x < x2 and y1 <= stride * y < y2):
                    continue
                inside = y < cells.shape[1] and x < cells.shape[2]
                there = bool(cells[o, y, x]) if inside else False
                for other in range(len(boxes)):
                    rival = smallest_owns and inside and images[other] == images[o]
                    if rival and cells[other, y, x] and (areas[other], other) < (areas[o], o):
                        there = False
                window[(int(images[o]) * height + y) * width + x] = there
        found.append(window)
    return found


def as_lists(windows):
    bounds = windows.offsets.tolist()
    pairs = list(zip(windows.cells.tolist(), windows.targets.tolist(), strict=True))
    return [dict(pairs[a:b]) for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("smallest_owns", [True, False])
@pytest.mark.parametrize("mask_stride", [1, 2, 4])
def test_as_loops_over_cells(mask_stride, smallest_owns):
    boxes, images, masks = random_masks(mask_stride)
    given = slow_cells(masks, mask_stride)
    cells = slow_cells(given, 4 // mask_stride)
    size = (2, 6, 8)
    rows = torch.arange(len(boxes))
    found = mask_windows(boxes, images, given, rows, size, 4, mask_stride, smallest_owns)
    assert as_lists(found) == slow_windows(boxes, images, cells, size, 4, smallest_owns)


def test_pixels_beyond_the_border_are_out_and_maps_may_be_larger():
    """An image of 5 x 6 pixels: cell (1, 1) has two of 16 pixels; the map was padded to 4 x 4."""
    masks = torch.ones(1, 5, 6, dtype=torch.bool)
    boxes, zero = torch.tensor([[0.0, 0, 6, 5]]), torch.tensor([0])
    found = mask_windows(boxes, zero, masks, zero, (1, 4, 4), 4, 1)
    assert as_lists(found) == [{0: True, 1: True, 4: False, 5: False}]


def test_rows_choose_masks_and_boxes_beyond_the_map_are_cut():
    masks = torch.zeros(3, 2, 2, dtype=torch.bool)
    masks[2] = True
    boxes, zero = torch.tensor([[-9.0, -9, 99, 99]]), torch.tensor([0])
    found = mask_windows(boxes, zero, masks, torch.tensor([2]), (1, 2, 2), 4, 4)
    assert as_lists(found) == [{0: True, 1: True, 2: True, 3: True}]


def test_windows_without_a_cell():
    masks, zero = torch.ones(1, 4, 4, dtype=torch.bool), torch.tensor([0])
    between = torch.tensor([[5.0, 5, 7, 7]])
    assert mask_windows(between, zero, masks, zero, (1, 4, 4), 4, 4).offsets.tolist() == [0, 0]
    nothing = mask_windows(torch.zeros(0, 4), zero[:0], masks[:0], zero[:0], (1, 4, 4), 4, 4)
    assert nothing.offsets.tolist() == [0]


def test_a_small_object_on_a_large_one_and_of_equal_ones_the_first():
    masks = torch.ones(3, 4, 4, dtype=torch.bool)
    masks[1, 2:] = masks[1, :, 2:] = masks[2, 2:] = masks[2, :, 2:] = False
    boxes = torch.tensor([[0.0, 0, 16, 16], [0, 0, 8, 8], [0, 0, 8, 8]])
    zero = torch.zeros(3, dtype=torch.int64)
    found = as_lists(mask_windows(boxes, zero, masks, torch.arange(3), (1, 4, 4), 4, 4))
    assert sorted(cell for cell, there in found[0].items() if not there) == [0, 1, 4, 5]
    assert all(found[1].values())
    assert not any(found[2].values())


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="mask_stride must divide the stride"):
        mask_windows(*[torch.zeros(0)] * 4, (1, 4, 4), 4, 3)
