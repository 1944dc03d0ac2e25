"""EoMT: a plain vision transformer as a segmentation model."""

from models.seg.eomt.eomt import EoMT

__all__ = ["EoMT"]
