"""Predictions of Mask R-CNN: many and none, frames, padding, batch mates."""

import dataclasses

import torch
from torch import nn

from tests.support.small_mask_rcnn import RPN, SIZES, assert_terms_close, build


def confident(**options):
    return build(score_thresh=0.0, nms_thresh=0.95, **options).eval()


def test_more_than_a_hundred_detections_in_chunks(scene):
    batch, _, _ = scene(SIZES)
    rpn = dataclasses.replace(RPN, post_nms_test=300, nms_thresh=0.95)
    model, chunks = confident(rpn=rpn, max_dets=250), []
    model.roi_heads.mask_head.register_forward_hook(lambda _m, _x, out: chunks.append(len(out)))
    for found, size in zip(model.predict(batch), SIZES, strict=True):
        assert len(found) == len(found.masks) == 250
        assert found.size == found.masks.size == size
        assert (found.scores.diff() <= 0).all()
        assert found.labels.min() >= 0
        assert found.labels.max() <= 2
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([size[1], size[0]] * 2)).all()
    assert max(chunks) <= 128
    assert sum(chunks) == 500
    model.max_dets = 7
    few, many = model.predict(batch)[0], model
    assert len(few) == 7
    assert many.max_dets == 7


def test_no_detections(scene):
    model = build(score_thresh=1.0).eval()
    for found in model.predict(scene(SIZES)[0]):
        assert len(found) == len(found.masks) == 0


def test_predictions_lie_in_the_original_frame(scene):
    model, (batch, _, _) = confident(), scene(SIZES)
    nn.init.constant_(model.roi_heads.mask_predictor.mask_fcn_logits.bias, 9.0)  # full boxes
    doubled = dataclasses.replace(batch, original_sizes=batch.sizes * torch.tensor([2, 3]))
    for same, scaled in zip(model.predict(batch), model.predict(doubled), strict=True):
        torch.testing.assert_close(scaled.boxes, same.boxes * torch.tensor([3, 2, 3, 2]))
        assert scaled.size == (same.size[0] * 2, same.size[1] * 3)
        # the image has 6 times the pixels; window rounding moves borders by a pixel or so
        ratio = scaled.masks.areas().sum() / same.masks.areas().sum()
        assert 5.3 < ratio < 6.7


def test_the_padding_is_not_looked_at(scene):
    model, (batch, _, _) = confident(), scene(SIZES)
    dirty = batch.images.clone()
    for position, (height, width) in enumerate(SIZES):
        dirty[position, :, height:] = 9.0
        dirty[position, :, :, width:] = -9.0
    other = dataclasses.replace(batch, images=dirty)
    assert_terms_close(model.losses(batch), model.losses(other), rtol=0, atol=0)
    before = batch.images.clone()
    for one, two in zip(model.predict(batch), model.predict(other), strict=True):
        assert torch.equal(one.boxes, two.boxes)
        assert torch.equal(one.scores, two.scores)
    assert torch.equal(batch.images, before)


def test_batch_mates_do_not_change_predictions(scene):
    """In one padded frame. Another frame changes what convolutions see beyond the border."""
    model, (batch, _, _) = confident(), scene(SIZES)
    together = model.predict(batch)
    for position in range(2):
        (alone,) = model.predict(batch.image(position))
        torch.testing.assert_close(together[position].boxes, alone.boxes, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together[position].scores, alone.scores, rtol=1e-4, atol=1e-4)
