"""Training protocols as LightningModules."""

from lightning_modules.mil import MILModule
from lightning_modules.segmentation import SegmentationModule

__all__ = ["MILModule", "SegmentationModule"]
