"""Masks through their box's window equal torchvision's full-size masks, run for run."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torchvision.models.detection.roi_heads import paste_masks_in_image

from models.ops.masks.paste import paste_to_rle

SIZE = (61, 83)


def reference(soft, boxes, size):
    dense = (paste_masks_in_image(soft[:, None], boxes, size)[:, 0] >= 0.5).byte().numpy()
    return [coco.encode(np.asfortranarray(mask))["counts"].decode() for mask in dense], dense


def assert_same(soft, boxes, size=SIZE):
    text, dense = reference(soft, boxes, size)
    masks = paste_to_rle(soft, boxes, size)
    assert masks.size == size
    assert [mask["counts"] for mask in masks.to_coco()] == text
    assert np.array_equal(masks.decode().astype(np.uint8), dense)


@pytest.mark.parametrize("cells", [14, 28])
def test_random_boxes_inside_and_partly_outside(cells):
    generator = torch.Generator().manual_seed(cells)
    corner = torch.rand(200, 2, generator=generator) * torch.tensor([90.0, 70.0]) - 10
    boxes = torch.cat([corner, corner + torch.rand(200, 2, generator=generator) * 60], dim=1)
    soft = torch.rand(200, cells, cells, generator=generator)
    # torchvision cannot paste a window that lies wholly outside the image
    inside = (boxes[:, 0] < 80) & (boxes[:, 1] < 58) & (boxes[:, 2:] > 3).all(dim=1)
    assert inside.sum() > 100
    assert_same(soft[inside], boxes[inside])


def test_saturated_masks_where_interpolation_gives_exactly_one_half():
    soft = torch.zeros(3, 28, 28)
    soft[0, 14:], soft[1, :, 7:21], soft[2] = 1, 1, 1
    boxes = torch.tensor([[4.0, 4, 32, 32], [10, 10, 66, 38], [0, 0, 83, 61]])
    assert_same(soft, boxes)


def test_tiny_and_border_boxes():
    boxes = torch.tensor(
        [[5.2, 5.2, 5.9, 5.9], [0, 0, 0.4, 61], [82.5, 60.5, 83, 61], [3, 3, 3, 9]]
    )
    assert_same(torch.ones(4, 28, 28), boxes)


def test_no_masks_and_a_box_outside_the_image():
    assert len(paste_to_rle(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE)) == 0
    outside = paste_to_rle(torch.ones(1, 28, 28), torch.tensor([[200.0, 5, 220, 30]]), SIZE)
    assert outside.areas().tolist() == [0]


def test_the_threshold_is_inclusive_and_used():
    soft = torch.full((1, 4, 4), 0.5)
    box = torch.tensor([[10.0, 10, 50, 50]])
    at, above = paste_to_rle(soft, box, SIZE), paste_to_rle(soft, box, SIZE, threshold=0.51)
    assert at.areas()[0] > 700
    assert above.areas()[0] == 0


def test_half_precision_is_pasted_in_single():
    soft = torch.rand(5, 28, 28, generator=torch.Generator().manual_seed(1)).bfloat16()
    boxes = torch.tensor([[3.7, 4.2, 40.1, 33.3]]).expand(5, 4)
    assert_same(soft.float(), boxes)
    one, two = paste_to_rle(soft, boxes, SIZE), paste_to_rle(soft.float(), boxes, SIZE)
    assert np.array_equal(one.runs, two.runs)
