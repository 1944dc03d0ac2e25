"""One-stage instance segmentation with prototype masks."""

from models.seg.yolo.losses import YOLOLossOptions
from models.seg.yolo.yolo import YOLOSeg

__all__ = ["YOLOLossOptions", "YOLOSeg"]
