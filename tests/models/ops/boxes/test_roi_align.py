"""Pooling equals torchvision's pooler; the matrix form equals the operator and its gradient."""

import weakref
from collections import OrderedDict

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import MultiScaleRoIAlign, roi_align

from models.ops.boxes import roi_align as ours
from models.ops.boxes.roi_align import pool_regions, project_masks, separable_roi_align


def random_rois(count, images, extent, seed=0, outside=0.0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, images, (count,), generator=generator).sort().values
    corner = torch.rand(count, 2, generator=generator) * extent * (1 + outside) - extent * outside
    side = torch.rand(count, 2, generator=generator) ** 2 * extent
    return torch.cat([image[:, None].float(), corner, corner + side], dim=1)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_separable_form_forward_and_backward(ratio):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 5, 12, 17, generator=generator).requires_grad_()
    rois = random_rois(40, 3, 60.0, outside=0.3)  # regions beyond every border of the map
    expected = roi_align(features, rois, (7, 7), 0.25, ratio)
    actual = separable_roi_align(features, rois, 0.25, 7, ratio)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(expected.shape, generator=generator)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), features)
    (mine,) = torch.autograd.grad((actual * weight).sum(), features)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grad", [True, False])
def test_pyramid_pooling(grad):
    generator = torch.Generator().manual_seed(2)
    levels = OrderedDict(
        (str(k), torch.randn(2, 4, 64 >> k, 96 >> k, generator=generator, requires_grad=grad))
        for k in range(4)
    )
    rois = random_rois(60, 2, 250.0)
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(2)]
    theirs = MultiScaleRoIAlign(list(levels), 7, 2, canonical_scale=100)(
        levels, boxes, [(256, 384)] * 2
    )
    mine = pool_regions(list(levels.values()), rois, 4, 7, 2, canonical_size=100.0)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-5 if grad else 0)


def test_the_matrix_form_is_used_only_for_gradients_of_small_maps(monkeypatch):
    calls = []
    original = ours.separable_roi_align
    monkeypatch.setattr(
        ours, "separable_roi_align", lambda *args: calls.append(args[0].shape) or original(*args)
    )
    rois = random_rois(6, 1, 40.0)
    for side, grad in ((16, True), (16, False), (80, True)):
        pool_regions([torch.zeros(1, 2, side, side, requires_grad=grad)], rois, 4, 7, 1)
    assert calls == [(1, 2, 16, 16)]


def test_no_regions():
    levels = [torch.ones(2, 3, 8, 8, requires_grad=True), torch.ones(2, 3, 4, 4)]
    assert pool_regions(levels, torch.zeros(0, 5), 4, 7, 2).shape == (0, 3, 7, 7)
    assert separable_roi_align(levels[0], torch.zeros(0, 5), 0.25, 7, 2).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("grad", [True, False])
def test_half_precision_levels_are_pooled_in_single(grad):
    """Coordinates must not be rounded: bfloat16 knows only every eighth number above 1024."""
    level = torch.arange(400.0).expand(1, 2, 4, 400).bfloat16().requires_grad_(grad)
    rois = torch.tensor([[0.0, 1101.3, 2, 1117.3, 10]])
    pooled = pool_regions([level], rois, 4, 2, 1)
    expected = roi_align(level.float(), rois, (2, 2), 0.25, 1).bfloat16()
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, expected)


def test_mask_targets_by_hand():
    masks = torch.zeros(3, 40, 40, dtype=torch.bool)
    masks[2, 10:30, 8:24] = True
    boxes = torch.tensor([[8.0, 10, 24, 30], [16, 10, 32, 30], [30, 0, 40, 8]])
    targets = project_masks(masks, torch.tensor([2, 2, 2]), boxes, 4, 1)
    # the second box lies half on the mask: two columns of cells in, two out (the last row is at
    # the mask's border, where torchvision's RoIAlign mixes in the row below)
    assert targets[1, :3, 0].tolist() == [1, 1, 1]
    assert targets[1, :, 3].max() == 0
    theirs = project_masks_on_boxes(masks, boxes, torch.tensor([2, 2, 2]), 4)
    assert torch.equal(targets, theirs)
    assert targets[2].max() == 0
    other = project_masks(masks, torch.tensor([1]), boxes[:1], 4, 1)
    assert other.max() == 0
    assert project_masks(masks, torch.zeros(0).long(), torch.zeros(0, 4), 4, 1).shape == (0, 4, 4)


def test_mask_targets_at_stride_four_lie_where_they_lie_at_stride_one():
    fine = torch.zeros(1, 64, 64, dtype=torch.bool)
    fine[0, 16:48, 20:40] = True
    coarse = fine[:, ::4, ::4]  # the mask's borders are multiples of 4: nothing is lost
    boxes = torch.tensor([[10.0, 8, 50, 56]])
    at_one = project_masks(fine, torch.tensor([0]), boxes, 28, 1)
    at_four = project_masks(coarse, torch.tensor([0]), boxes, 28, 4)
    # interpolation between coarse cells is softer, but the centre of mass and the area stay
    grid = torch.arange(28) + 0.5
    for axis in (1, 2):
        centre = [(t.sum(axis) * grid).sum() / t.sum() for t in (at_one, at_four)]
        torch.testing.assert_close(centre[0], centre[1], rtol=0, atol=0.03)
    torch.testing.assert_close(at_one.sum(), at_four.sum(), rtol=0.02, atol=0)


def random_masks(count, height, width):
    masks = torch.rand(count, height, width) > 0.5
    corners = torch.rand(2 * count, 2) * torch.tensor([width, height]) * 0.6
    boxes = torch.cat([corners, corners + 2 + torch.rand(2 * count, 2) * 30], dim=1)
    return masks, torch.randint(count - 2, (2 * count,)), boxes  # the last two have no box


def test_masks_in_chunks_give_the_same_targets(monkeypatch):
    torch.manual_seed(0)
    masks, rows, boxes = random_masks(11, 40, 60)
    whole = project_masks(masks, rows, boxes, 14, 1)
    for count in (0, 1, 3, 9):  # masks per chunk; a mask that is larger than a chunk is a chunk
        monkeypatch.setattr("models.ops.boxes.roi_align._MASK_BYTES", count * 40 * 60 * 5)
        assert torch.equal(project_masks(masks, rows, boxes, 14, 1), whole)
    assert torch.equal(whole, project_masks_on_boxes(masks, boxes, rows, 14))


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all tensors made inside the block that are alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and not tensor._is_view():
                storage = tensor.untyped_storage()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
                self.peak = max(self.peak, self.live)
        return made

    def _freed(self, size):
        self.live -= size


def test_256_masks_of_a_batch_of_two_need_at_most_200_mb():
    """All at once, the copies take 1.1 GB of float32 and 275 MB of bool."""
    masks = torch.zeros(256, 800, 1344, dtype=torch.bool)
    boxes = torch.tensor([[10.0, 10, 50, 60]]).repeat(256, 1)
    with LiveBytes() as memory:
        project_masks(masks, torch.arange(256), boxes, 28, 1)
    assert memory.peak < 200e6
