"""Pooling on a CPU equals torchvision's operator and pooler, and so does its gradient."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import MultiScaleRoIAlign, roi_align

from models.ops.boxes import roi_align as ours
from models.ops.boxes.roi_align import pool_regions, project_masks, row_roi_align


def random_rois(count, images, extent, seed=0, outside=0.0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, images, (count,), generator=generator).sort().values
    corner = torch.rand(count, 2, generator=generator) * extent * (1 + outside) - extent * outside
    side = torch.rand(count, 2, generator=generator) ** 2 * extent
    return torch.cat([image[:, None].float(), corner, corner + side], dim=1)


def pyramid(batch, channels, height, width, count=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(
            batch, channels, height >> k, width >> k, generator=generator, dtype=dtype
        ).requires_grad_()
        for k in range(count)
    ]


def gradients(pooled, levels):
    weight = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(3)).to(pooled.dtype)
    return torch.autograd.grad((pooled * weight).sum(), levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_one_level_forward_and_backward(ratio, dtype):
    features = torch.randn(3, 5, 12, 17, dtype=dtype).requires_grad_()
    rois = random_rois(40, 3, 60.0, outside=0.3).to(dtype)  # also beyond every border of the map
    rois = rois[torch.randperm(len(rois))]  # images in any order
    expected = roi_align(features, rois, (7, 7), 0.25, ratio)
    actual = row_roi_align([features], torch.zeros(40, dtype=int), rois, 4, 7, ratio)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    (theirs,), (mine,) = gradients(expected, [features]), gradients(actual, [features])
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [16, 80])  # 80: more cells than the finest level of 640 pixels
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pyramid_pooling_forward_and_backward(side, memory_format):
    levels = [level.to(memory_format=memory_format) for level in pyramid(2, 4, side, side + 8)]
    rois = random_rois(60, 2, 4.0 * side)
    boxes = [rois[rois[:, 0] == image, 1:] for image in range(2)]
    names = [str(k) for k in range(4)]
    pooler = MultiScaleRoIAlign(names, 7, 2, canonical_scale=100)
    theirs = pooler(dict(zip(names, levels, strict=True)), boxes, [(4 * side, 4 * side + 32)] * 2)
    mine = pool_regions(levels, rois, 4, 7, 2, canonical_size=100.0)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(mine, levels), gradients(theirs, levels), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_second_source_for_the_gradient():
    levels = pyramid(1, 2, 4, 6, count=2, dtype=torch.float64)
    rois = torch.tensor([[0.0, 1, 2, 9, 15], [0, -9, 3, 30, 40]], dtype=torch.float64)

    def pool(*maps):
        return pool_regions(maps, rois, 4, 2, 2, canonical_size=60.0)

    assert torch.autograd.gradcheck(pool, levels)


@pytest.mark.parametrize(
    ("device", "way"), [("cpu", "row_roi_align"), ("meta", "_operator_by_level")]
)
def test_the_type_of_the_device_chooses_the_way(monkeypatch, device, way):
    levels, rois = pyramid(2, 3, 16, 16), random_rois(30, 2, 60.0)
    both = [ours.row_roi_align, ours._operator_by_level]
    args = (levels, torch.arange(30) % 4, rois, 4, 7, 2)
    torch.testing.assert_close(both[0](*args), both[1](*args), rtol=1e-5, atol=1e-5)
    calls = []
    for function in both:
        name = function.__name__
        monkeypatch.setattr(ours, name, lambda maps, *_, name=name: calls.append(name) or maps[0])
    pool_regions([level.to(device) for level in levels], rois.to(device), 4, 7, 2)
    assert calls == [way]


def test_regions_outside_the_map_and_without_extent():
    levels = pyramid(1, 3, 8, 8, count=2)
    inf = float("inf")
    rois = torch.tensor(
        [[0.0, -90, -90, -50, -50], [0, 70, 70, 99, 99], [0, 5, 5, 5, 5], [0, 0, 0, inf, inf]]
    )
    pooled = row_roi_align(levels, torch.tensor([0, 1, 0, 1]), rois, 4, 7, 2)
    assert pooled[:2].eq(0).all()
    torch.testing.assert_close(pooled[2:3], roi_align(levels[0], rois[2:3], (7, 7), 0.25, 2))
    assert pooled.isfinite().all()


def test_no_regions_still_reach_every_level():
    levels = pyramid(2, 3, 8, 8, count=2)
    pooled = pool_regions(levels, torch.zeros(0, 5), 4, 7, 2)
    assert pooled.shape == (0, 3, 7, 7)
    assert all(gradient.eq(0).all() for gradient in torch.autograd.grad(pooled.sum(), levels))


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
