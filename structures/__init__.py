"""Typed batches and outputs: everything that crosses a boundary of the project."""

from structures.bag_batch import BagBatch, MILOutput, MILTask
from structures.batch import Batch
from structures.category_map import CategoryMap
from structures.instances import Instances
from structures.problem import BadDataPolicy, DataProblems, Problem, settle
from structures.rle import CocoRLE, RLEMasks
from structures.seg_batch import PictureTargets, SegBatch
from structures.slide import PatchBatch, Slide
from structures.transferable import Transferable

__all__ = [
    "BadDataPolicy",
    "BagBatch",
    "Batch",
    "CategoryMap",
    "CocoRLE",
    "DataProblems",
    "Instances",
    "MILOutput",
    "MILTask",
    "PatchBatch",
    "PictureTargets",
    "Problem",
    "RLEMasks",
    "SegBatch",
    "Slide",
    "Transferable",
    "settle",
]
