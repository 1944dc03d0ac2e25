"""Masked-attention mask transformer."""

from models.seg.mask2former.mask2former import Mask2Former

__all__ = ["Mask2Former"]
