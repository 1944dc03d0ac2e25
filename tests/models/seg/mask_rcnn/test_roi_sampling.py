"""Regions of the heads' losses: content, budget, keys."""

import torch

from models.seg.mask_rcnn import BoxHeadOptions
from models.seg.mask_rcnn.matching import image_boxes
from models.seg.mask_rcnn.roi_sampling import RoISampler, with_image


def proposals(boxes, seed):
    generator = torch.Generator().manual_seed(seed)
    near = boxes.repeat(8, 1) + torch.randn(len(boxes) * 8, 4, generator=generator)
    corner = torch.rand(60, 2, generator=generator) * 40
    return torch.cat([near, torch.cat([corner, corner + 20], dim=1)])


def sample(scene, sampler, counts=(2, 0, 3), images=slice(None), key=1):
    batch, _, _ = scene([(64, 64)] * len(counts), instances=list(counts))
    truths = image_boxes(batch, 3)
    regions = [proposals(truth.boxes, truth.index) for truth in truths]
    return batch, sampler(regions[images], truths[images], key)


def test_positives_carry_their_own_instance(scene):
    batch, got = sample(scene, RoISampler(BoxHeadOptions(batch_size_per_image=32), None))
    positive = got.labels.nonzero().flatten()
    assert torch.bincount(got.regions[:, 0].long()).tolist() == [32, 32, 32]
    assert torch.equal(got.matched, batch.boxes[got.rows])
    assert torch.equal(got.labels[positive], batch.labels[got.rows] + 1)
    owner = torch.tensor([0, 0, 2, 2, 2])[got.rows]
    assert torch.equal(got.regions[positive, 0].long(), owner)
    assert torch.bincount(owner).tolist() == [8, 0, 8]  # a quarter of 32
    low = torch.maximum(got.regions[positive, 1:3], got.matched[:, :2])
    high = torch.minimum(got.regions[positive, 3:], got.matched[:, 2:])
    inter = (high - low).clamp(min=0).prod(1)
    area = (got.regions[positive, 3:] - got.regions[positive, 1:3]).prod(1)
    union = area + (got.matched[:, 2:] - got.matched[:, :2]).prod(1) - inter
    assert (inter / union >= 0.5).all()


def test_instances_themselves_are_proposals(scene):
    batch, got = sample(scene, RoISampler(BoxHeadOptions(batch_size_per_image=500), None))
    for row, box in enumerate(batch.boxes):
        assert (got.regions[:, 1:] == box).all(1).any(), row


def test_the_cap_on_masks_keeps_that_many_of_each_image(scene):
    options = BoxHeadOptions(batch_size_per_image=32)
    _, everything = sample(scene, RoISampler(options, None))
    _, capped = sample(scene, RoISampler(options, 3))
    assert everything.to_mask.all()
    assert torch.equal(everything.regions, capped.regions)
    owner = torch.tensor([0, 0, 2, 2, 2])[capped.rows]
    assert torch.bincount(owner[capped.to_mask]).tolist() == [3, 0, 3]
    kept = {
        tuple(sample(scene, RoISampler(options, 3), key=key)[1].to_mask.tolist())
        for key in range(20)
    }
    assert len(kept) > 5  # another draw each step


def test_an_image_is_sampled_alike_whoever_is_beside_it(scene):
    sampler = RoISampler(BoxHeadOptions(batch_size_per_image=16), 2)
    _, together = sample(scene, sampler)
    _, alone = sample(scene, sampler, images=slice(2, 3))
    third = together.regions[:, 0] == 2
    assert torch.equal(together.regions[third, 1:], alone.regions[:, 1:])
    assert torch.equal(together.to_mask[-4:], alone.to_mask)
    _, other_key = sample(scene, sampler, key=2)
    assert not torch.equal(other_key.regions, together.regions)


def test_with_image():
    rows = with_image([torch.ones(1, 4), torch.zeros(0, 4), torch.full((2, 4), 3.0)])
    assert rows.tolist() == [[0, 1, 1, 1, 1], [2, 3, 3, 3, 3], [2, 3, 3, 3, 3]]
