"""Mask R-CNN equals torchvision's: state dicts, losses, detections and masks."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from models.seg.mask_rcnn import MaskRCNNResNet50FPN, MaskRCNNResNet50FPNV2

NUM_CLASSES = 3
SIZES = [(96, 128), (120, 90)]
THEIR_NAME = {
    "objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "classifier": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}


def random_statistics(model):
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)


@functools.cache
def pair(version):
    """Our preset and torchvision's model with the same random weights."""
    torch.manual_seed(3)
    if version == 1:
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5
        )
        theirs = TorchvisionMaskRCNN(backbone, num_classes=NUM_CLASSES + 1)
        ours = MaskRCNNResNet50FPN(NUM_CLASSES)
    else:
        theirs = maskrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1
        )
        ours = MaskRCNNResNet50FPNV2(NUM_CLASSES)
    random_statistics(theirs)
    with torch.no_grad():  # fresh heads are nearly constant: spread scores and boxes
        theirs.rpn.head.cls_logits.weight.mul_(30)
        theirs.rpn.head.bbox_pred.weight.mul_(2)
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(6)
    theirs.rpn._pre_nms_top_n = theirs.rpn._post_nms_top_n = {"training": 80, "testing": 60}
    limits = {f"{when}_nms_train": 80 for when in ("pre", "post")}
    limits |= {f"{when}_nms_test": 60 for when in ("pre", "post")}
    ours.rpn.options = dataclasses.replace(ours.rpn.options, **limits)
    theirs.roi_heads.detections_per_img = ours.max_dets = 24
    theirs.transform.resize = lambda image, target=None: (image, target)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def set_budget(ours, theirs, number):
    theirs.rpn.fg_bg_sampler.batch_size_per_image = number
    theirs.roi_heads.fg_bg_sampler.batch_size_per_image = number
    ours.rpn.options = dataclasses.replace(ours.rpn.options, batch_size_per_image=number)
    sampler = ours.roi_heads.sampler
    sampler.options = dataclasses.replace(sampler.options, batch_size_per_image=number)


def assert_same_losses(ours, theirs, batch, inputs, targets):
    theirs.train()
    ours.train()
    expected = theirs(inputs, targets)
    actual = ours.losses(batch)
    assert set(actual) == set(THEIR_NAME)
    for name, other in THEIR_NAME.items():
        assert expected[other] > 1e-3  # the comparison would say nothing about a zero loss
        torch.testing.assert_close(actual[name], expected[other], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_losses_when_everything_is_sampled(version, scene):
    ours, theirs = pair(version)
    set_budget(ours, theirs, 100_000)
    assert_same_losses(ours, theirs, *scene(SIZES))


def first_ones(labels, number, fraction):
    positive, negative = (labels >= 1).nonzero().flatten(), (labels == 0).nonzero().flatten()
    positive = positive[: int(number * fraction)]
    return positive, negative[: number - len(positive)]


def test_losses_with_a_limited_sample(scene, monkeypatch):
    ours, theirs = pair(1)
    set_budget(ours, theirs, 24)

    def their_sampler(sampler, matched):
        chosen = [
            first_ones(labels, sampler.batch_size_per_image, sampler.positive_fraction)
            for labels in matched
        ]
        masks = [[torch.zeros_like(m, dtype=torch.uint8) for m in matched] for _ in range(2)]
        for kind in range(2):
            for mask, one in zip(masks[kind], chosen, strict=True):
                mask[one[kind]] = 1
        return masks[0], masks[1]

    monkeypatch.setattr(type(theirs.rpn.fg_bg_sampler), "__call__", their_sampler)
    for module in ("rpn", "roi_sampling"):
        monkeypatch.setattr(
            f"models.seg.mask_rcnn.{module}.sample_balanced",
            lambda labels, number, fraction, _: first_ones(labels, number, fraction),
        )
    assert_same_losses(ours, theirs, *scene(SIZES))


def test_losses_with_an_image_without_instances(scene):
    ours, theirs = pair(1)
    set_budget(ours, theirs, 100_000)
    assert_same_losses(ours, theirs, *scene(SIZES, instances=[0, 3]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "scale"), [(1, 1.0), (1, 1.7), pytest.param(2, 1.7, marks=pytest.mark.slow)]
)
def test_detections_and_masks(version, scale, scene):
    ours, theirs = pair(version)
    batch, inputs, _ = scene(SIZES)
    original = (batch.sizes * scale).round().long()
    batch = dataclasses.replace(batch, original_sizes=original)
    theirs.eval()
    with torch.no_grad():
        images, _ = theirs.transform(inputs)
        features = theirs.backbone(images.tensors)
        proposals, _ = theirs.rpn(images, features)
        expected, _ = theirs.roi_heads(features, proposals, images.image_sizes)
        expected = theirs.transform.postprocess(
            expected, images.image_sizes, [tuple(size) for size in original.tolist()]
        )
    actual = ours.eval().predict(batch)
    assert len(actual) == 2
    for mine, reference in zip(actual, expected, strict=True):
        assert len(mine) > 15
        torch.testing.assert_close(mine.boxes, reference["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(mine.scores, reference["scores"], rtol=1e-5, atol=1e-5)
        assert torch.equal(mine.labels + 1, reference["labels"])
        dense = (reference["masks"][:, 0] >= 0.5).byte().numpy()
        assert dense.any(axis=(1, 2)).mean() > 0.5
        text = [coco.encode(np.asfortranarray(mask))["counts"].decode() for mask in dense]
        assert [mask["counts"] for mask in mine.masks.to_coco()] == text


@pytest.mark.parametrize(
    ("build", "ours"),
    [
        (maskrcnn_resnet50_fpn, MaskRCNNResNet50FPN),
        (maskrcnn_resnet50_fpn_v2, MaskRCNNResNet50FPNV2),
    ],
)
def test_state_dict_of_the_published_classes(build, ours):
    with torch.device("meta"):
        theirs = build(weights=None, weights_backbone=None, num_classes=91).state_dict()
        mine = ours(90)
    shapes = {key: value.shape for key, value in mine.state_dict().items()}
    # a frozen batch norm keeps no count of batches and drops it when loading
    frozen = {key: value.shape for key, value in theirs.items() if key in shapes}
    assert shapes == frozen
    assert all(key.endswith("num_batches_tracked") for key in set(theirs) - set(shapes))
    mine.load_state_dict(theirs, strict=True, assign=True)
