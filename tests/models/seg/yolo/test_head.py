"""The one-stage head: widths, what row i of its outputs is, where its biases start."""

import pytest
import torch
from torch import nn

from models.seg.yolo import YOLOSeg
from models.seg.yolo.head import YOLOHead, anchor_points
from tests.models.seg.yolo.test_yolo import IMAGES, tiny


@pytest.mark.parametrize(
    ("finest", "num_classes", "num_bins", "num_prototypes", "widths"),
    [
        # max(16, c / 4, 4 bins), max(c, min(classes, 100)), max(c / 4, prototypes)
        (8, 3, 2, 1, (16, 8, 2)),
        (8, 3, 16, 5, (64, 8, 5)),
        (96, 120, 2, 5, (24, 100, 24)),
        (160, 120, 16, 5, (64, 160, 40)),
    ],
)
def test_widths_by_hand(finest, num_classes, num_bins, num_prototypes, widths):
    with torch.device("meta"):
        head = YOLOHead((finest, 8, 8), num_classes, 8, num_bins, num_prototypes)
    for branches, width in zip((head.box, head.classes, head.coefficients), widths, strict=True):
        for branch in branches:
            assert [branch[k].conv.out_channels for k in (0, 1)] == [width, width]


def test_points_are_exact_in_float32_whatever_the_levels_are():
    like = torch.zeros(1, dtype=torch.bfloat16)  # which holds no odd number above 256
    points, strides = anchor_points([(1, 80), (1, 40), (1, 20)], like)
    assert points.dtype == strides.dtype == torch.float32
    assert points[:80, 0].tolist() == [8 * k + 4 for k in range(80)]


def test_anchor_points_by_loop():
    output = tiny().eval()(IMAGES)
    points, strides = [], []
    for stride in (8, 16, 32):
        for y in range(64 // stride):
            for x in range(96 // stride):
                points.append([(x + 0.5) * stride, (y + 0.5) * stride])
                strides.append(stride)
    assert torch.equal(output.points, torch.tensor(points))
    assert torch.equal(output.strides, torch.tensor(strides, dtype=torch.float32))


class Patches(nn.Module):
    """A backbone whose every cell sees its own pixels only."""

    feature_channels = (3, 3, 3)

    def forward(self, images):
        return [nn.functional.avg_pool2d(images, stride) for stride in (8, 16, 32)]


class NoNeck(nn.Module):
    def forward(self, levels):
        return levels


def isolated_cells(num_classes=2):
    """Backbone and branches of 1x1: output i depends on the pixels of cell i alone."""
    model = tiny(num_classes, backbone=Patches())
    model.neck = NoNeck()
    for branches in (model.head.box, model.head.classes, model.head.coefficients):
        for number, branch in enumerate(branches):
            branches[number] = nn.Conv2d(3, branch[-1].out_channels, 1)
    model.head.prototypes = nn.Identity()
    return model


@pytest.mark.parametrize("field", ["class_logits", "box_logits", "coefficients"])
def test_row_i_is_the_cell_around_point_i(field):
    model = isolated_cells().double()
    images = IMAGES.double().requires_grad_()
    output = model(images)
    values = getattr(output, field)
    for anchor in range(values.shape[1]):
        (gradient,) = torch.autograd.grad(values[1, anchor].sum(), images, retain_graph=True)
        seen = gradient.abs().sum(dim=1)
        (x, y), side = output.points[anchor].tolist(), int(output.strides[anchor])
        cell = torch.zeros_like(seen, dtype=torch.bool)
        top, left = int(y - side / 2), int(x - side / 2)
        cell[1, top : top + side, left : left + side] = True
        assert torch.equal(seen > 0, cell), anchor


def test_a_branch_sees_two_cells_around_its_point():
    """The real branches, two 3x3 convolutions, centred on their cell, at the border too."""
    model = tiny(2, backbone=Patches()).double().eval()
    model.neck, model.head = NoNeck(), YOLOHead((3, 3, 3), 2, prototype_width=8).double().eval()
    images = IMAGES.double()[:1].requires_grad_()
    output = model(images)
    for anchor in (0, 11, 40, 95, 96, 108, 119, 120, 125):
        logits = output.class_logits[0, anchor].sum()
        (gradient,) = torch.autograd.grad(logits, images, retain_graph=True)
        (x, y), reach = output.points[anchor].tolist(), 2.5 * float(output.strides[anchor])
        rows, columns = torch.arange(64)[:, None] + 0.5, torch.arange(96) + 0.5
        near = ((rows - y).abs() < reach) & ((columns - x).abs() < reach)
        assert torch.equal(gradient.abs().sum(dim=1)[0] > 0, near), anchor


def test_biases_at_the_start():
    head = YOLOSeg("n", 80).head
    for stride, box, classes in zip((8, 16, 32), head.box, head.classes, strict=True):
        assert torch.equal(box[-1].bias, torch.ones(64))
        expected = 5 / 80 / (640 / stride) ** 2  # as a probability, up to p^2
        torch.testing.assert_close(classes[-1].bias.exp(), torch.full((80,), expected))
