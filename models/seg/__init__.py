"""Instance segmentation models, one method a file."""

from models.seg.protocol import SegModel

__all__ = ["SegModel"]
