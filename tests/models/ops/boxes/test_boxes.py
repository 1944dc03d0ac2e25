"""Box arithmetic against values by hand and torchvision."""

import math

import pytest
import torch
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import complete_box_iou_loss
from torchvision.ops.poolers import LevelMapper

from models.ops.boxes.boxes import complete_iou, covered_fraction, fpn_levels, rescale_boxes


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


def random_boxes(count, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * 40
    return torch.cat(
        [corner, corner + 1 + torch.rand(count, 2, generator=generator, dtype=dtype) * 40], dim=1
    )


def test_complete_iou_by_hand():
    """IoU 8 / 24, centres 2 apart, hull 6 x 4, tan of the angles 1 and 1."""
    boxes, targets = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 0, 6, 4]])
    assert complete_iou(boxes, targets).item() == pytest.approx(8 / 24 - 4 / 52)
    flat = torch.tensor([[0.0, 0, 8, 2]])  # overlap 8 of 24 with the first box
    unlike = 4 / math.pi**2 * (math.atan(4) - math.atan(1)) ** 2
    share = unlike / (1 - 8 / 24 + unlike)
    expected = 8 / 24 - (2**2 + 1) / (64 + 16) - share * unlike
    assert complete_iou(boxes, flat).item() == pytest.approx(expected)


def test_complete_iou_as_torchvision_with_gradients():
    boxes, targets = random_boxes(300, 0).requires_grad_(), random_boxes(300, 1)
    ours, theirs = complete_iou(boxes, targets), 1 - complete_box_iou_loss(boxes, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    (mine,) = torch.autograd.grad(ours.sum(), boxes)
    (other,) = torch.autograd.grad(theirs.sum(), boxes)
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_complete_iou_gradient():
    """The share of the shape term gets none, so it is held fixed for the numbers."""
    boxes, targets = random_boxes(6, 2), random_boxes(6, 3)
    same_shape = boxes.clone()  # v = 0: the share does not matter
    same_shape[:, 2:] = boxes[:, :2] + 0.8 * (targets[:, 2:] - targets[:, :2])
    assert torch.autograd.gradcheck(
        lambda shift: complete_iou(same_shape + shift.repeat(1, 2), targets),
        torch.zeros(6, 2, dtype=torch.float64, requires_grad=True),
    )


def test_complete_iou_of_points_and_half_precision():
    point = torch.tensor([[5.0, 5, 5, 5]], requires_grad=True)
    value = complete_iou(point, torch.tensor([[0.0, 0, 10, 10]]))
    assert value.isfinite().all()
    value.sum().backward()
    assert point.grad.isfinite().all()
    box = torch.tensor([[0.0, 0, 1000, 900]]).half()
    assert complete_iou(box, box).item() == 1.0
    assert complete_iou(box, box).dtype == torch.float32
    assert complete_iou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
