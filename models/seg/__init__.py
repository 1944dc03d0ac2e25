"""Instance segmentation models, one method a file."""

from models.seg.inference import InferenceOptions
from models.seg.mask_rcnn import MaskRCNN, MaskRCNNResNet50FPN, MaskRCNNResNet50FPNV2
from models.seg.mask_rcnn_options import BoxHeadOptions, MaskHeadOptions, RPNOptions
from models.seg.protocol import SegModel, TimedSegModel
from models.seg.yolo_losses import YOLOLossOptions
from models.seg.yolo_seg import YOLOSeg

__all__ = [
    "BoxHeadOptions",
    "InferenceOptions",
    "MaskHeadOptions",
    "MaskRCNN",
    "MaskRCNNResNet50FPN",
    "MaskRCNNResNet50FPNV2",
    "RPNOptions",
    "SegModel",
    "TimedSegModel",
    "YOLOLossOptions",
    "YOLOSeg",
]
