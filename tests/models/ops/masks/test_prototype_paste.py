"""Masks in windows equal full maps computed pixel by pixel in float64, for both orders."""

import math

import numpy as np
import pytest
import torch

from models.ops.masks.prototype_paste import paste_prototypes

# valid (height, width), original size, frame in cells (h, w)
FRAMES = [
    ((64, 96), (64, 96), (16, 24)),  # no resizing, no padding
    ((50, 75), (101, 149), (16, 24)),  # odd, padded, enlarged, unequal ratios
    ((61, 33), (40, 27), (16, 16)),  # reduced
    ((64, 64), (64, 64), (24, 32)),  # the cell beyond the image is padding
    ((3, 2), (7, 5), (8, 8)),  # one cell
]


def make(frame, count=12, prototypes=5, seed=0):
    valid, size, (h, w) = frame
    random = torch.Generator().manual_seed(seed)
    maps = torch.randn(prototypes, h, w, generator=random, dtype=torch.float64)
    factors = torch.randn(count, prototypes, generator=random, dtype=torch.float64)
    factors[0] = maps[:, 0, 0]  # positive in the first cell
    low = torch.rand(count, 2, generator=random) * torch.tensor([size[1], size[0]])
    sides = torch.rand(count, 2, generator=random) * torch.tensor([size[1], size[0]]) * 0.6
    boxes = torch.cat([low - sides / 3, low + sides], dim=1)  # some reach beyond the image
    boxes[0] = torch.tensor([0, 0, size[1], size[0]])
    boxes[1] = torch.tensor([1, 2, size[1] - 1, size[0] - 1])  # whole numbers
    boxes[2] = torch.tensor([0.5, 0.5, 2.5, 3.5])  # sides through pixel centres
    return maps, factors, boxes, valid, size


def axis(position, valid, size):
    """Return [(cell, weight), (cell, weight)] of a pixel."""
    last = math.ceil(valid / 4) - 1
    place = min(max((position + 0.5) * valid / size / 4 - 0.5, 0.0), float(last))
    cell = math.floor(place)
    return [(cell, 1 - (place - cell)), (min(cell + 1, last), place - cell)]


def slow(maps, factors, box, valid, size, crop):
    """Return the mask of one detection, full maps and loops."""
    logits = np.einsum("p,phw->hw", factors.numpy(), maps.numpy())
    x1, y1, x2, y2 = box.tolist()
    if crop == "before":
        for r in range(logits.shape[0]):
            for c in range(logits.shape[1]):
                column, row = 4 * c * size[1] / valid[1], 4 * r * size[0] / valid[0]
                if not (x1 <= column < x2 and y1 <= row < y2):
                    logits[r, c] = 0
    mask = np.zeros(size, dtype=bool)
    for y in range(size[0]):
        for x in range(size[1]):
            if crop == "after" and not (x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2):
                continue
            rows, columns = axis(y, valid[0], size[0]), axis(x, valid[1], size[1])
            mask[y, x] = sum(logits[r, c] * a * b for r, a in rows for c, b in columns) > 0
    return mask


@pytest.mark.parametrize("crop", ["after", "before"])
@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_as_loops_over_full_maps(frame, crop):
    maps, factors, boxes, valid, size = make(frame)
    masks = paste_prototypes(maps, factors, boxes, valid, size, crop=crop)
    assert masks.size == size
    found = masks.decode()
    assert found.any()
    for k, box in enumerate(boxes):
        expected = slow(maps, factors[k], box, valid, size, crop)
        np.testing.assert_array_equal(found[k], expected, err_msg=f"{k}: {box}")


@pytest.mark.parametrize("crop", ["after", "before"])
def test_half_precision_is_computed_in_float32(crop):
    maps, factors, boxes, valid, size = make(FRAMES[1])
    maps, factors = maps.bfloat16(), factors.bfloat16()
    low = paste_prototypes(maps, factors, boxes, valid, size, crop=crop)
    high = paste_prototypes(maps.double(), factors.double(), boxes, valid, size, crop=crop)
    assert (low.decode() != high.decode()).sum() <= 2  # logits of about 1e-7


def test_padding_plays_no_part():
    maps, factors, boxes, valid, size = make(FRAMES[3])
    expected = paste_prototypes(maps[:, :16, :16], factors, boxes, valid, size)
    other = maps.clone()
    other[:, 16:], other[:, :, 16:] = 100.0, -100.0
    found = paste_prototypes(other, factors, boxes, valid, size)
    np.testing.assert_array_equal(found.decode(), expected.decode())


@pytest.mark.parametrize("crop", ["after", "before"])
def test_boxes_without_a_pixel_have_empty_masks(crop):
    boxes = torch.tensor([[8.6, 8.0, 9.4, 30.0], [5.0, 5.0, 5.0, 9.0], [90.0, 3.0, 99.0, 9.0]])
    boxes = torch.cat([boxes, torch.tensor([[-9.0, 3.0, 0.0, 9.0], [2.0, 70.0, 9.0, 80.0]])])
    masks = paste_prototypes(
        torch.ones(1, 16, 16), torch.ones(5, 1), boxes, (64, 64), (64, 64), crop=crop
    )
    areas = masks.areas().tolist()
    if crop == "after":
        assert areas == [0] * 5
    else:  # the first has a column of cells though no pixel's centre
        assert areas[1:] == [0] * 4


def test_values_with_a_graph_are_read_all_the_same():
    maps, factors, boxes, valid, size = make(FRAMES[0])
    expected = paste_prototypes(maps, factors, boxes, valid, size)
    alive = (values.clone().requires_grad_() for values in (maps, factors, boxes))
    found = paste_prototypes(*alive, valid, size)
    np.testing.assert_array_equal(found.decode(), expected.decode())


def test_no_detections():
    masks = paste_prototypes(
        torch.ones(3, 8, 8), torch.ones(0, 3), torch.zeros(0, 4), (32, 32), (7, 9)
    )
    assert (len(masks), masks.size) == (0, (7, 9))


def test_a_known_mask_at_twice_the_size():
    """Cells left of 4 are in, from 4 on out: the border is where u = 3.5, at pixel 32 of 128."""
    maps = torch.ones(1, 16, 16)
    maps[:, :, 4:] = -1
    boxes = torch.tensor([[10.0, 6.0, 100.0, 20.0]])
    masks = paste_prototypes(maps, torch.ones(1, 1), boxes, (64, 64), (128, 128))
    expected = np.zeros((128, 128), dtype=bool)
    expected[6:20, 10:32] = True
    np.testing.assert_array_equal(masks.decode()[0], expected)
