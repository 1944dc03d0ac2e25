"""Typed batches and outputs that the packages of the project exchange."""

from structures.bag_batch import BagBatch, MILOutput
from structures.batch import Batch
from structures.category_map import CategoryMap
from structures.instances import Instances
from structures.problem import AnnotationPolicy, BadDataPolicy, DataProblems, Problem, settle
from structures.rle import CocoRLE, RLEMasks
from structures.seg_batch import ImageId, ImageTargets, SegBatch
from structures.slide import PatchBatch, Slide
from structures.targets import TargetCoding
from structures.tasks import MILTask
from structures.transferable import Transferable

__all__ = [
    "AnnotationPolicy",
    "BadDataPolicy",
    "BagBatch",
    "Batch",
    "CategoryMap",
    "CocoRLE",
    "DataProblems",
    "ImageId",
    "ImageTargets",
    "Instances",
    "MILOutput",
    "MILTask",
    "PatchBatch",
    "Problem",
    "RLEMasks",
    "SegBatch",
    "Slide",
    "TargetCoding",
    "Transferable",
    "settle",
]
