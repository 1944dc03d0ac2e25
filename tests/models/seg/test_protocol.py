"""Predictions in two parts: what the learned layers give, and the rest."""

import dataclasses

import pytest
import torch

from models.backbones.csp import Scale
from models.backbones.timm_fpn import TimmFPN
from models.seg.mask_rcnn import BoxHeadOptions, MaskHeadOptions, MaskRCNN, RPNOptions
from models.seg.protocol import TimedSegModel
from models.seg.yolo import YOLOSeg


def one_stage():
    scale = Scale(depth=0.33, width=0.0625, max_channels=256)
    return YOLOSeg(scale, 3, score_thresh=0.0, max_dets=5)


def two_stage():
    return MaskRCNN(
        3,
        TimmFPN("resnet10t", fpn_width=16, norm="frozen_bn"),
        rpn=RPNOptions(anchor_sizes=(12, 24, 32, 48, 64), pre_nms_train=100, post_nms_train=60),
        box=BoxHeadOptions(width=32, sampling_ratio=1),
        mask=MaskHeadOptions(width=16, num_convs=1),
        score_thresh=0.0,
        max_dets=5,
    )


@pytest.mark.parametrize("build", [one_stage, two_stage])
def test_the_parts_are_the_whole(scene, build):
    torch.manual_seed(0)
    model, (batch, *_) = build().eval(), scene([(64, 96), (90, 60)])
    batch = dataclasses.replace(batch, original_sizes=torch.tensor([(128, 200), (45, 31)]))
    assert isinstance(model, TimedSegModel)
    outputs = model.network_outputs(batch)
    unread = dataclasses.replace(batch, images=torch.zeros_like(batch.images))
    found = model.instances(outputs, unread)
    assert [len(one) for one in found] == [5, 5]
    for one, other in zip(found, model.predict(batch), strict=True):
        assert one.size == other.size
        for field in ("boxes", "scores", "labels"):
            assert torch.equal(getattr(one, field), getattr(other, field))
        assert list(map(list, one.masks)) == list(map(list, other.masks))
        assert not one.boxes.requires_grad


def test_outputs_of_mask_rcnn_hold_boxes_and_soft_masks(scene):
    torch.manual_seed(0)
    model, (batch, *_) = two_stage().eval(), scene([(64, 96), (90, 60)])
    for found, soft in model.network_outputs(batch):
        assert soft.shape == (5, 28, 28)
        assert found.boxes.shape == (5, 4)
        assert 0 <= soft.min() <= soft.max() <= 1
