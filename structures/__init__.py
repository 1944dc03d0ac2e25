"""Typed batches and outputs: everything that crosses a boundary of the project."""

from structures.bag_batch import BagBatch, MILOutput, MILTask
from structures.category_map import CategoryMap
from structures.instances import Instances
from structures.rle import CocoRLE, RLEMasks
from structures.seg_batch import PictureTargets, SegBatch
from structures.slide import PatchBatch, Slide
from structures.transferable import Transferable

__all__ = [
    "BagBatch",
    "CategoryMap",
    "CocoRLE",
    "Instances",
    "MILOutput",
    "MILTask",
    "PatchBatch",
    "PictureTargets",
    "RLEMasks",
    "SegBatch",
    "Slide",
    "Transferable",
]
