"""Box arithmetic against values by hand and torchvision."""

import torch
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops.poolers import LevelMapper

from models.ops.boxes import covered_fraction, fpn_levels, rescale_boxes


def test_covered_fraction_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 4], [100, 100, 110, 110], [2, 2, 2, 5]])
    regions = torch.tensor([[5.0, 0, 50, 2], [-5, -5, 4, 50]])
    # first box: 5 x 2 of 40 in the first region, 4 x 4 of 40 in the second; the rest is outside
    # or empty
    torch.testing.assert_close(covered_fraction(boxes, regions), torch.tensor([0.4, 0.0, 0.0]))
    assert covered_fraction(boxes, torch.zeros(0, 4)).tolist() == [0.0, 0.0, 0.0]
    assert covered_fraction(torch.zeros(0, 4), regions).shape == (0,)


def test_a_small_box_inside_is_covered_whatever_the_size_of_the_region():
    inside = torch.tensor([[10.0, 10, 12, 13]])
    assert covered_fraction(inside, torch.tensor([[0.0, 0, 500, 500]])).item() == 1.0


def test_rescale_boxes_by_hand_and_as_torchvision():
    boxes = torch.tensor([[1.0, 2, 3, 4]])
    scaled = rescale_boxes(boxes, torch.tensor([10, 20]), torch.tensor([20, 100]))
    assert scaled.tolist() == [[5.0, 4.0, 15.0, 8.0]]
    boxes = torch.rand(20, 4) * 100
    theirs = resize_boxes(boxes, (97, 131), (427, 640))
    assert torch.equal(
        rescale_boxes(boxes, torch.tensor([97, 131]), torch.tensor([427, 640])), theirs
    )


def test_fpn_levels_as_torchvision_and_at_the_borders():
    side = torch.tensor([1.0, 111.9, 112, 223.9, 224, 447, 448, 2000, 0])
    boxes = torch.stack([0 * side, 0 * side, side, side], dim=1)
    levels = fpn_levels(boxes, 2, 5)
    assert levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0]
    torch.manual_seed(0)
    corner, size = torch.rand(500, 2) * 300, torch.rand(500, 2) * 600
    boxes = torch.cat([corner, corner + size], dim=1)
    assert torch.equal(fpn_levels(boxes, 2, 5), LevelMapper(2, 5)([boxes]))
    assert torch.equal(fpn_levels(boxes, 3, 4, canonical_size=100), LevelMapper(3, 4, 100)([boxes]))
