"""Generalised IoU against torchvision."""

import torch
from torchvision.ops import generalized_box_iou

from models.losses.box import generalised_iou, to_centres, to_corners


def boxes(number, seed):
    corners = torch.rand(number, 2, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def test_pairs_and_own_targets_are_those_of_torchvision():
    one, other = boxes(30, 0), boxes(30, 1)
    expected = generalized_box_iou(one, other)
    pairs = generalised_iou(one[:, None], other)
    torch.testing.assert_close(pairs, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(generalised_iou(one, other), pairs.diagonal())


def test_boxes_without_extent_have_finite_gradients():
    point = torch.full((2, 4), 0.5, requires_grad=True)
    found = generalised_iou(point, torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2]]))
    (gradient,) = torch.autograd.grad(found.sum(), point)
    assert bool(found.isfinite().all()) and bool(gradient.isfinite().all())


def test_gradients_are_those_of_differences():
    one, other = boxes(4, 2).double().requires_grad_(), boxes(4, 3).double()
    assert torch.autograd.gradcheck(lambda given: generalised_iou(given, other), one)


def test_corners_and_centres_are_inverse():
    one = boxes(10, 4)
    torch.testing.assert_close(to_corners(to_centres(one)), one)
    assert to_centres(torch.tensor([1.0, 2, 5, 4])).tolist() == [3, 3, 4, 2]
