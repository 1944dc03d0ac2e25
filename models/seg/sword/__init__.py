"""SWORD: open-world instance segmentation on Deformable DETR (arXiv 2308.04206)."""

from models.seg.sword.sword import SWORD

__all__ = ["SWORD"]
