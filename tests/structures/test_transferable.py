"""Batches on their way out of a loader worker."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from structures import BagBatch, SegBatch


def scene(images=2, instances=3, side=96, boxes=torch.float32):
    generator = torch.Generator().manual_seed(0)
    total = images * instances
    return SegBatch(
        images=torch.rand(images, 3, side, side, generator=generator),
        sizes=torch.full((images, 2), side),
        boxes=torch.rand(total, 4, generator=generator).to(boxes),
        labels=torch.arange(total),
        masks=torch.rand(total, side, side, generator=generator) > 0.5,
        counts=torch.full((images,), instances),
        crowd=torch.arange(total) % 2 == 0,
        index=torch.arange(images) + 7,
        original_sizes=torch.full((images, 2), 2 * side).t().contiguous().t(),  # another layout
        image_ids=tuple(range(images)),
        mask_stride=1,
    )


def bag(instances=5):
    return BagBatch(
        features=torch.arange(instances * 4.0).reshape(instances, 4).half(),
        offsets=torch.tensor([0, instances]),
        labels=torch.tensor([1]),
        index=torch.tensor([3]),
        instance_labels=torch.arange(instances),
        bag_ids=("slide 3",),
    )


def received(batches):
    """The batches as the main process gets them from a worker."""
    return list(DataLoader(batches, batch_size=None, num_workers=1))


def fields(batch):
    return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    for name, value in fields(ours).items():
        other = getattr(theirs, name)
        if isinstance(value, torch.Tensor):
            assert (value.dtype, value.shape) == (other.dtype, other.shape), name
            assert torch.equal(value, other), name
        else:
            assert value == other, name


def storages(batch):
    tensors = {n: v for n, v in fields(batch).items() if isinstance(v, torch.Tensor)}
    return {n: t.untyped_storage().data_ptr() for n, t in tensors.items()}


def test_a_batch_crosses_unchanged_and_its_small_tensors_as_one():
    sent = [
        scene(),
        scene(boxes=torch.float64),
        scene(instances=0),  # no object at all
        bag(),
        bag(instances=1),
    ]
    arrived = received(sent)
    for ours, theirs in zip(sent, arrived, strict=True):
        assert_same(ours, theirs)
    places = storages(arrived[0])
    assert sent[0].masks.nbytes < 2**16 < sent[0].images.nbytes
    assert places.pop("images") not in places.values()
    assert len(set(places.values())) == 1
    assert len(set(storages(arrived[3]).values())) == 1


def test_a_received_batch_can_be_written_to():
    """Values of one field do not reach into the next."""
    (arrived,) = received([scene()])
    before = scene()
    arrived.labels.fill_(-1)
    arrived.boxes.fill_(-2)
    assert torch.equal(arrived.crowd, before.crowd)
    assert torch.equal(arrived.counts, before.counts)
    assert torch.equal(arrived.masks, before.masks)
    assert arrived.labels.tolist() == [-1] * 6


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_outside_a_worker_copies_are_ordinary(duplicate):
    ours, theirs = scene(), duplicate(scene())
    assert_same(ours, theirs)
    assert len(set(storages(theirs).values())) == len(storages(theirs))
