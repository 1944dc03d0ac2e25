"""Deformable DETR with masks (arXiv 2010.04159; masks after CondInst, arXiv 2003.05664)."""

from models.seg.deformable_detr.deformable_detr import DeformableDETR

__all__ = ["DeformableDETR"]
