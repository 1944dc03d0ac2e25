"""Predictions of queries against full-size masks, resized twice and encoded by pycocotools."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from models.seg.queries.instances import query_instances

QUERIES, CLASSES = 12, 3


def predictions(images, cells, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(images, QUERIES, CLASSES, generator=generator)
    coarse = torch.randn(images, QUERIES, 3, 3, generator=generator) - 0.5
    masks = functional.interpolate(coarse, cells, mode="bicubic")
    masks = 4 * masks + 0.3 * torch.randn(masks.shape, generator=generator)
    return scores, masks


def slow(scores, masks, batch, max_dets):
    """Return score, label, text and box of the predictions of each image, by full-size masks."""
    from pycocotools import mask as coco

    height, width = (-(-side // 32) * 32 for side in batch.images.shape[-2:])
    found = []
    for image, ((h, w), size) in enumerate(
        zip(batch.sizes.tolist(), batch.original_sizes.tolist(), strict=True)
    ):
        logits = functional.interpolate(masks[image : image + 1], (height, width), mode="bilinear")
        logits = functional.interpolate(logits[..., :h, :w], tuple(size), mode="bilinear")[0]
        best, place = scores[image].flatten().topk(max_dets)
        rows = []
        for score, number in zip(best, place.tolist(), strict=True):
            mask = logits[number // CLASSES] > 0
            quality = logits[number // CLASSES].sigmoid()[mask].sum() / (mask.sum() + 1e-6)
            if mask.any():
                record = coco.encode(mask.byte().numpy().copy(order="F"))
                x, y, wide, high = coco.toBbox(record)
                box = [x, y, x + wide, y + high]
                text = record["counts"].decode()
                rows.append((float(score * quality), number % CLASSES, text, box))
        found.append(sorted(rows, key=lambda row: -row[0]))
    return found


@pytest.mark.parametrize(
    ("sizes", "originals"),
    [
        ([(64, 96), (64, 96)], [(64, 96), (64, 96)]),
        ([(50, 90), (64, 61)], [(50, 90), (64, 61)]),
        ([(50, 90), (64, 61)], [(131, 240), (32, 30)]),
        ([(33, 65), (64, 96)], [(33, 130), (19, 200)]),
        ([(64, 96), (1, 1)], [(7, 5), (40, 40)]),
    ],
)
def test_masks_are_those_of_full_size_maps(sizes, originals, scene):
    batch = dataclasses.replace(
        scene([(64, 96), (64, 96)], instances=1)[0],
        sizes=torch.tensor(sizes),
        original_sizes=torch.tensor(originals),
    )
    scores, masks = predictions(2, (16, 24))
    masks[0, 5] = -1.0  # an empty mask
    found = query_instances(scores, masks, batch, max_dets=20)
    for one, rows in zip(found, slow(scores, masks, batch, 20), strict=True):
        expected, labels, texts, boxes = zip(*rows, strict=True)
        assert [record["counts"] for record in one.masks.to_coco()] == list(texts)
        assert one.labels.tolist() == list(labels)
        torch.testing.assert_close(one.scores, torch.tensor(expected))
        assert one.boxes.tolist() == [list(map(float, box)) for box in boxes]


def test_the_size_of_the_padded_images_can_be_given(scene):
    """A model of square images pads further."""
    batch, *_ = scene([(64, 40)], instances=1)
    scores, masks = predictions(1, (16, 16))
    (found,) = query_instances(scores, masks, batch, max_dets=5, size=(64, 64))
    wide = dataclasses.replace(
        batch,
        images=torch.zeros(1, 3, 64, 64),
        masks=torch.zeros(len(batch.masks), 64, 64, dtype=torch.bool),
    )
    (expected,) = query_instances(scores, masks, wide, max_dets=5)
    assert found.masks.to_coco() == expected.masks.to_coco()


def test_given_boxes_are_in_the_frame_of_the_file_and_scores_stay(scene):
    batch, *_ = scene([(50, 80)], instances=1)
    batch = dataclasses.replace(batch, original_sizes=torch.tensor([[100, 240]]))
    scores, masks = predictions(1, (16, 24))
    boxes = torch.tensor([0.5, 0.25, 0.5, 0.25]).expand(1, QUERIES, 4)  # of 64 x 96
    (found,) = query_instances(scores, masks, batch, max_dets=4, boxes=boxes, mask_quality=False)
    assert found.scores.tolist() == scores.flatten().sort(descending=True).values[:4].tolist()
    # x from 24 to 72, three times as wide in the file; y from 8 to 24, twice as high
    torch.testing.assert_close(found.boxes, torch.tensor([[72.0, 16, 216, 48]]).expand(4, 4))


def test_fewer_pairs_than_asked_for_and_no_mask_at_all(scene):
    batch, *_ = scene([(64, 96)], instances=1)
    scores, masks = predictions(1, (16, 24))
    (found,) = query_instances(scores, masks, batch, max_dets=1000)
    assert len(found) == QUERIES * CLASSES
    (found,) = query_instances(scores, torch.full_like(masks, -1.0), batch, max_dets=10)
    assert len(found) == 0
    assert found.size == found.masks.size == (64, 96)
    assert found.boxes.shape == (0, 4)


def test_half_precision_is_computed_in_float32(scene):
    batch, *_ = scene([(64, 96)], instances=1)
    scores, masks = (one.bfloat16() for one in predictions(1, (16, 24)))
    (found,) = query_instances(scores, masks, batch, max_dets=10)
    (expected,) = query_instances(scores.float(), masks.float(), batch, max_dets=10)
    assert torch.equal(found.scores, expected.scores)
    assert found.masks.to_coco() == expected.masks.to_coco()
