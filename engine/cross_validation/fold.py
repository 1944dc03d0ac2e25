"""A fold of a cross-validation: its settings, its bags and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from datamodules.mil.chunks import ChunkedBags
from datamodules.mil.feature_bags import FeatureBags
from datamodules.mil.feature_set import FeatureSet
from datamodules.mil.npz_file import BagFile
from datamodules.mil.samplers import BatchPlan
from datamodules.sampling.keys import SampleKey
from engine.cross_validation.reading import Reader, in_batches, on_device, read_ahead
from engine.cross_validation.selection import Selected, Selection
from evaluation.targets.training_bags import TrainingBags
from lightning_modules.mil import MILModule
from structures import BagBatch, MILTask, TargetCoding

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
BagSet = BagFile | FeatureSet
FoldKey = tuple[int, int, int]  # seed, repeat, fold
# (B,) fold of each bag, -1 for bags that take no part, and the key
FoldTask = tuple[npt.NDArray[np.int64], FoldKey]

_PREDICTION_BATCH = 256  # bags of an npz file; slides are read one by one
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class FoldRecipe:
    """Training settings of a fold.

    Attributes:
        build: returns a new module for a number of classes, feature width and task.
        plan: sampling of the batches.
        max_steps: optimizer steps, or None.
        max_epochs: passes over the training bags, or None; the smaller limit applies.
        clip_norm: largest gradient norm, or None.
        accumulate: batches per optimizer step; the last step of an epoch may have fewer.
        standardise: whether to standardise features of an npz file by the training bags.
        clip: largest absolute value of a standardised feature, or None.
        val_fraction: fraction of the training bags held out to choose the threshold; not used if
            the module does not choose one, or if ``selection`` is given.
        first: same as ``build`` for the first stage, or None. The first stage is trained with the
            same settings on the same bags.
        selection: how the weights are selected, or None to take the last ones.
        device: device that trains and predicts.
        num_workers: processes that read slides ahead; 0 to read them in the training process.
    """

    build: Callable[[int, int, MILTask], MILModule]
    plan: BatchPlan
    max_steps: int | None = None
    max_epochs: int | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    standardise: bool = True
    clip: float | None = None
    val_fraction: float = 0.2
    first: Callable[[int, int, MILTask], MILModule] | None = None
    selection: Selection | None = None
    device: torch.device = CPU
    num_workers: int = 0


@dataclass(frozen=True, slots=True)
class FoldResult:
    """Predictions of a fold's model.

    Attributes:
        test: (B,) bool, test bags of the fold.
        probabilities: (T,) or (T, C), predictions of the test bags in order: probabilities, or
            what else `MILModule.predicted` gives, in the user's units.
        threshold: probability from which a binary bag counts as positive.
        selected: which weights were selected, or None for the last ones.
        coding: coding of times and values, fitted on the training bags; None for classes.
        training_bags: what scores of times take from the training bags, or None.
        external: predictions of all bags of each external set, as ``probabilities``.
    """

    test: BoolArray
    probabilities: FloatArray
    threshold: float
    selected: Selected | None = None
    coding: TargetCoding | None = None
    training_bags: TrainingBags | None = None
    external: tuple[FloatArray, ...] = ()


def training_part(folds: npt.NDArray[np.int64], key: FoldKey) -> BoolArray:
    """Return (B,) True for the bags of the other folds; those of -1 take no part."""
    train: BoolArray = (folds != key[2]) & (folds >= 0)
    return train


def _no_progress(key: FoldKey, share: float) -> None:
    pass


def _no_result(key: FoldKey, fold: Fold, result: FoldResult) -> None:
    pass


class FoldHooks(NamedTuple):
    """Functions that are told about the training of folds.

    Attributes:
        progress: called with the key of a fold and the share of its training that is done.
        finished: called with the key, the trained fold and its result.
    """

    progress: Callable[[FoldKey, float], None] = _no_progress
    finished: Callable[[FoldKey, Fold, FoldResult], None] = _no_result


SILENT = FoldHooks()


@dataclass(frozen=True, slots=True)
class Fold:
    """A fold and its module.

    Attributes:
        module: the module, before or after training.
        test: (B,) bool, the test bags.
        val: (B,) bool, the bags to choose weights or a threshold on.
        numbers: numbers of the training bags.
        read: returns batches of bags by their numbers.
        seed: seed of the training.
        chunks: chunks of the bags to train on, or None to train on bags.
        slides: the slides, or None for bags of an npz file.
        selection: how the weights are selected, or None to take the last ones.
    """

    module: MILModule
    test: BoolArray
    val: BoolArray
    numbers: list[int]
    read: Reader
    seed: int
    chunks: ChunkedBags | None = None
    slides: FeatureSet | None = None
    selection: Selection | None = None

    def batch(self, keys: Sequence[SampleKey]) -> BagBatch:
        """Return a training batch."""
        if self.chunks is None:
            return self.read([key.index for key in keys], keys[0].epoch)
        return BagBatch.collate([self.chunks[key] for key in keys]).in_single_precision()

    def validates(self, before: int, after: int, epoch_length: int) -> bool:
        """Return whether a validation is due after a step; see `Interval.is_due`."""
        rule = self.selection
        return rule is not None and rule.interval.is_due(before, after, epoch_length)

    def batches(self, keys: Iterable[list[SampleKey]], recipe: FoldRecipe) -> Iterator[BagBatch]:
        """Yield training batches on the recipe's device."""
        if self.slides is None or recipe.num_workers == 0:
            found: Iterator[BagBatch] = map(self.batch, keys)
        else:
            most, versions = recipe.plan.max_instances, self.slides.versions
            reduced = FeatureBags(self.slides, most, self.seed, versions)
            source = reduced if self.chunks is None else self.chunks
            found = read_ahead(source, keys, recipe.num_workers, recipe.device)
        yield from (on_device(batch, recipe.device).in_single_precision() for batch in found)

    def whole_bags(self, chosen: BoolArray, recipe: FoldRecipe) -> Iterator[BagBatch]:
        """Yield the bags marked in (B,) on the recipe's device, uncut and in order."""
        numbers = np.flatnonzero(chosen).tolist()
        if self.slides is None or recipe.num_workers == 0:
            size = _PREDICTION_BATCH if self.slides is None else 1
            parts = in_batches(numbers, size)
            found: Iterator[BagBatch] = (self.read(part, None) for part in parts)
        else:
            keys = [[SampleKey(number, 0)] for number in numbers]
            found = read_ahead(FeatureBags(self.slides), keys, recipe.num_workers, recipe.device)
        yield from (on_device(batch, recipe.device).in_single_precision() for batch in found)
