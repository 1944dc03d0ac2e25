"""A small Mask R-CNN whose outputs differ from image to image."""

import torch

from models.backbones.timm_fpn import TimmFPN
from models.seg.mask_rcnn import BoxHeadOptions, MaskHeadOptions, MaskRCNN, RPNOptions

TERMS = {"objectness", "rpn_box", "classifier", "box", "mask"}
SIZES = [(64, 96), (90, 60)]
RPN = RPNOptions(
    anchor_sizes=(12, 24, 32, 48, 64), pre_nms_train=100, post_nms_train=60, batch_size_per_image=64
)
BOX = BoxHeadOptions(width=32, batch_size_per_image=32, sampling_ratio=1)
MASK = MaskHeadOptions(width=16, num_convs=1)


def build(norm="frozen_bn", rpn=RPN, box=BOX, mask=MASK, fpn_norm=None, fpn_width=16, **options):
    torch.manual_seed(0)
    backbone = TimmFPN("resnet10t", fpn_width=fpn_width, norm=norm, fpn_norm=fpn_norm)
    model = MaskRCNN(3, backbone, rpn=rpn, box=box, mask=mask, **options)
    with torch.no_grad():
        for name, weight in model.backbone.body.named_parameters():
            if name.endswith("bn2.weight"):  # timm starts residual branches at zero
                weight.fill_(0.5)
        model.rpn.head.cls_logits.weight.mul_(20)
        model.roi_heads.box_predictor.cls_score.weight.mul_(5)
    return model


def assert_terms_close(actual, expected, rtol=1e-5, atol=1e-6):
    assert set(actual) == set(expected) == TERMS
    for name in TERMS:
        torch.testing.assert_close(actual[name], expected[name], rtol=rtol, atol=atol)


def total(terms):
    return sum(terms.values())
