"""Instance segmentation models, one method a file."""

from models.seg.mask_rcnn import MaskRCNN, mask_rcnn_resnet50_fpn, mask_rcnn_resnet50_fpn_v2
from models.seg.mask_rcnn_options import BoxHeadOptions, MaskHeadOptions, RPNOptions
from models.seg.protocol import SegModel

__all__ = [
    "BoxHeadOptions",
    "MaskHeadOptions",
    "MaskRCNN",
    "RPNOptions",
    "SegModel",
    "mask_rcnn_resnet50_fpn",
    "mask_rcnn_resnet50_fpn_v2",
]
