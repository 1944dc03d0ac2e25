"""Mask R-CNN (He et al. 2017)."""

from models.seg.mask_rcnn.mask_rcnn import MaskRCNN, MaskRCNNResNet50FPN, MaskRCNNResNet50FPNV2
from models.seg.mask_rcnn.options import BoxHeadOptions, MaskHeadOptions, RPNOptions

__all__ = [
    "BoxHeadOptions",
    "MaskHeadOptions",
    "MaskRCNN",
    "MaskRCNNResNet50FPN",
    "MaskRCNNResNet50FPNV2",
    "RPNOptions",
]
