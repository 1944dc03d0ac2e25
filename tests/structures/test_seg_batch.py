"""Checks, views and transfer of SegBatch."""

import dataclasses

import pytest
import torch

from structures import SegBatch


def make_batch():
    generator = torch.Generator().manual_seed(0)
    return SegBatch(
        images=torch.rand(3, 3, 8, 10, generator=generator),
        sizes=torch.tensor([[8, 10], [6, 7], [8, 9]]),
        boxes=torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 4], [2, 3, 5, 6]]),
        labels=torch.tensor([4, 5, 6]),
        masks=torch.rand(3, 8, 10, generator=generator) > 0.5,
        counts=torch.tensor([2, 0, 1]),
        crowd=torch.tensor([False, True, False]),
        index=torch.tensor([7, 8, 9]),
        original_sizes=torch.tensor([[16, 20], [12, 14], [8, 9]]),
        image_ids=(70, 80, 90),
    )


def test_targets_follow_the_counts():
    parts = make_batch().targets()
    assert [p.labels.tolist() for p in parts] == [[4, 5], [], [6]]
    assert parts[0].crowd.tolist() == [False, True]
    assert parts[2].boxes.tolist() == [[2, 3, 5, 6]]


def test_image_is_the_batch_of_that_image():
    batch = make_batch()
    last = batch.image(2)
    assert len(last) == 1
    assert last.image_ids == (90,)
    assert last.labels.tolist() == [6]
    assert torch.equal(last.images[0], batch.images[2])
    assert torch.equal(last.masks[0], batch.masks[2])
    assert batch.image(1).boxes.shape == (0, 4)


def test_to_moves_every_tensor_and_keeps_the_rest():
    moved = make_batch().to("meta")
    tensors = [getattr(moved, f.name) for f in dataclasses.fields(moved)]
    assert all(t.device.type == "meta" for t in tensors if isinstance(t, torch.Tensor))
    assert moved.image_ids == (70, 80, 90)
    assert moved.mask_stride == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("images", torch.zeros(3, 1, 8, 10), r"SegBatch.images must have shape \(B, 3, H, W\)"),
        ("boxes", torch.zeros(3), r"SegBatch.boxes must have shape \(M, 4\)"),
        ("boxes", torch.zeros(3, 4, dtype=torch.int64), "boxes must be float"),
        ("labels", torch.zeros(2, dtype=torch.int64), r"labels must have shape \(3,\)"),
        ("labels", torch.zeros(3), "labels must be integer"),
        ("masks", torch.zeros(3, 4, 5, dtype=torch.bool), r"masks must have shape \(3, 8, 10\)"),
        ("crowd", torch.zeros(3, dtype=torch.int64), "crowd must be bool"),
        ("masks", torch.zeros(3, 8, 10, dtype=torch.uint8), "masks must be bool"),
        ("counts", torch.zeros(2, dtype=torch.int64), r"counts must have shape \(3,\)"),
        ("image_ids", (1,), "must name 3 images, got 1"),
        ("mask_stride", 0, "at least 1"),
    ],
)
def test_wrong_fields_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make_batch(), **{field: value})


def test_mask_stride_rounds_up():
    masks = torch.zeros(3, 3, 4, dtype=torch.bool)
    assert dataclasses.replace(make_batch(), masks=masks, mask_stride=3).mask_stride == 3


@pytest.mark.parametrize(
    ("counts", "total"),
    [
        pytest.param([2, 1, 1], 4, id="boxes fewer than counts"),
        pytest.param([2, 0, 0], 2, id="boxes more than counts"),
    ],
)
def test_counts_that_do_not_sum_are_refused(counts, total):
    batch = dataclasses.replace(make_batch(), counts=torch.tensor(counts))
    for split in (batch.targets, lambda: batch.image(0), batch.count_list):
        with pytest.raises(ValueError, match=f"sums to {total} but there are 3 boxes"):
            split()


def test_construction_reads_no_values():
    make_batch().to("meta")  # a meta tensor has no values: reading one would raise
