"""Training and predicting one fold of a cross-validation.

The loop is written out instead of handed to a Trainer because fifty runs of a second or two would
spend most of their time on a Trainer's bookkeeping. It takes a `MILModule` for what it describes:
model, loss weights, optimizer, schedule and threshold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from datamodules.mil.base import select_bags
from datamodules.mil.feature_set import FeatureBags, FeatureSet
from datamodules.mil.folds import hold_out
from datamodules.mil.npz import packed
from datamodules.mil.npz_file import BagFile
from datamodules.mil.samplers import BatchPlan
from datamodules.mil.standardisation import Standardisation
from datamodules.sampling.keys import SampleKey, keyed_generator
from evaluation.mil.scores import youden_threshold
from lightning_modules.mil import MILModule
from lightning_modules.staged import StagedMILModule
from structures import BagBatch, DataProblems, MILTask

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
BagSet = BagFile | FeatureSet
# The bags of the given numbers in one batch; in an epoch of training, or whole where it is None.
Reader = Callable[[Sequence[int], int | None], BagBatch]
# (B,) fold of each bag, and (seed, repeat, fold).
FoldTask = tuple[npt.NDArray[np.int64], tuple[int, int, int]]

_TRAINING_PURPOSE = 6
_PREDICTED_AT_ONCE = 256  # bags of an npz file; slides are read one by one


@dataclass(frozen=True, slots=True)
class FoldRecipe:
    """How to train a fold.

    Attributes:
        build: makes a module with new weights from number of classes, feature width and task.
        plan: which bags make up a step.
        max_steps: optimizer steps, or None.
        max_epochs: passes over the training bags, or None; what ends first counts.
        clip_norm: largest gradient norm, or None.
        accumulate: batches of an optimizer step; an epoch's last step takes what is left.
        standardise: centre and scale features of an npz file by the training bags.
        clip: largest absolute value of a standardised feature, or None.
        val_fraction: share of the training bags held out to choose the threshold, where the
            module chooses one; otherwise all of them are trained on.
        first: makes the module of a first stage likewise, or None. It is trained in the same way,
            on the same bags.
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


@dataclass(frozen=True, slots=True)
class FoldResult:
    """What a fold's model says.

    Attributes:
        test: (B,) bool, its test bags.
        probabilities: (T,) or (T, C) of the test bags in order.
        threshold: probability from which a binary bag counts as positive.
    """

    test: BoolArray
    probabilities: FloatArray
    threshold: float


def run_fold(
    bags: BagSet,
    folds: npt.NDArray[np.int64],
    recipe: FoldRecipe,
    key: tuple[int, int, int],
) -> FoldResult:
    """Train on all folds but one and predict that one.

    Args:
        bags: the file, or the slides of a table.
        folds: (B,) fold of each bag.
        recipe: how to train.
        key: (seed, repeat, fold), which with the bags and the recipe fixes the result.

    Raises:
        ValueError: the training bags do not suffice for what the recipe asks of them, or a loss is
            not finite; the message names repeat and fold.
    """
    with torch.random.fork_rng(devices=[]), naming_fold(key):
        fold = prepare_fold(bags, folds, recipe, key)
        if isinstance(fold.module, StagedMILModule):
            if recipe.first is not None:
                first = recipe.first(bags.num_classes, bags.in_features, bags.task)
                train_fold(dataclasses.replace(fold, module=first), bags, recipe)
                fold.module.receive(first.model.state_dict())
            fold.module.check_first_stage()
        train_fold(fold, bags, recipe)
    return finish_fold(fold, bags)


@contextlib.contextmanager
def naming_fold(key: tuple[int, int, int]) -> Iterator[None]:
    """Put repeat and fold of (seed, repeat, fold) before the message of a wrong training.

    Raises:
        ValueError: the training did. Faults of the data name their file and are none of a fold.
    """
    try:
        yield
    except DataProblems:
        raise
    except ValueError as error:
        raise ValueError(f"repeat {key[1]}, fold {key[2]}: {error}") from error


@dataclass(frozen=True, slots=True)
class Fold:
    """A fold with the module that it trains.

    Attributes:
        module: as it was made, or trained.
        test: (B,) bool, the test bags.
        val: (B,) bool, bags to choose the threshold by.
        numbers: of the training bags.
        read: gives batches of bags by their numbers.
        seed: of its training.
    """

    module: MILModule
    test: BoolArray
    val: BoolArray
    numbers: list[int]
    read: Reader
    seed: int


def prepare_fold(
    bags: BagSet, folds: npt.NDArray[np.int64], recipe: FoldRecipe, key: tuple[int, int, int]
) -> Fold:
    """Make a fold's module and choose its bags; arguments as of `run_fold`.

    Torch's random numbers are seeded and left where training goes on from.
    """
    test = folds == key[2]
    train, val = ~test, np.zeros_like(test)
    run_seed = int(keyed_generator(_TRAINING_PURPOSE, *key).integers(2**31))
    torch.manual_seed(run_seed)
    module = recipe.build(bags.num_classes, bags.in_features, bags.task)
    if module.choose_threshold and bags.task == "binary":
        groups = [bags.groups[b] for b in np.flatnonzero(train)] if bags.groups else ()
        val[train] = hold_out(bags.labels[train], recipe.val_fraction, key, groups)
        train = train & ~val
        if not val.any():
            raise ValueError("threshold: youden needs validation bags; raise val_fraction")
    read = _reader(bags, train, recipe, run_seed)
    return Fold(module, test, val, np.flatnonzero(train).tolist(), read, run_seed)


def finish_fold(fold: Fold, bags: BagSet) -> FoldResult:
    """Choose the threshold of a trained fold, if it is to be chosen, and predict the test bags."""
    threshold = fold.module.threshold
    at_once = _PREDICTED_AT_ONCE if isinstance(bags, BagFile) else 1
    if fold.val.any():
        scores = _predict(fold, fold.val, at_once)
        threshold = youden_threshold(bags.labels[fold.val], scores)
    return FoldResult(fold.test, _predict(fold, fold.test, at_once), threshold)


def _reader(bags: BagSet, train: BoolArray, recipe: FoldRecipe, seed: int) -> Reader:
    if isinstance(bags, FeatureSet):
        cut, whole = FeatureBags(bags, recipe.plan.max_instances, seed), FeatureBags(bags)

        def read(numbers: Sequence[int], epoch: int | None) -> BagBatch:
            slides = whole if epoch is None else cut
            return BagBatch.collate([slides[SampleKey(n, epoch or 0)] for n in numbers])

        return read
    statistics = None
    if recipe.standardise:
        statistics = Standardisation.fit(bags.features[bags.rows_of(train)], recipe.clip)
    prepared = packed(bags, statistics)
    return lambda numbers, epoch: select_bags(prepared, torch.tensor(numbers))


def training_steps(
    fold: Fold, bags: BagSet, recipe: FoldRecipe
) -> tuple[Iterator[list[list[SampleKey]]], int, int]:
    """Return the batches of each step, the number of steps, and that of batches an epoch.

    The module is told its training bags.
    """
    module, numbers = fold.module, fold.numbers
    plan = dataclasses.replace(recipe.plan, batch_size=min(recipe.plan.batch_size, len(numbers)))
    sampler = plan.build(numbers, bags.labels, bags.sizes, bags.weights, fold.seed)
    limits = [] if recipe.max_steps is None else [recipe.max_steps]
    if recipe.max_epochs is not None:
        limits.append(recipe.max_epochs * -(-len(sampler) // recipe.accumulate))
    chosen = np.asarray(numbers)
    module.set_training_bags(chosen, bags.labels[chosen], bags.sizes[chosen])
    return batches_of_steps(sampler, min(limits), recipe.accumulate), min(limits), len(sampler)


def train_fold(fold: Fold, bags: BagSet, recipe: FoldRecipe) -> None:
    """Train the module of a fold, without a first stage, and on nothing but its bags."""
    module = fold.module
    known = bags.numbers() if isinstance(bags, BagFile) else []  # what a file's bags are called
    batches_of_steps, steps, _ = training_steps(fold, bags, recipe)
    optimizer = module.build_optimizer()
    schedule = module.scheduler_factory
    scheduler = None if schedule is None else schedule(optimizer, steps)
    module.train()
    for step, batches in enumerate(batches_of_steps):
        module.progress = step / steps
        optimizer.zero_grad()
        for keys in batches:
            batch = fold.read([key.index for key in keys], keys[0].epoch)
            names = batch.bag_ids or [known[key.index] for key in keys]
            loss = module.total_loss(module.training_terms(batch), names)
            # As the Trainer does, also where the epoch leaves fewer batches.
            (loss / recipe.accumulate).backward()  # type: ignore[no-untyped-call]
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
        optimizer.step()
        module.after_optimizer_step()
        if scheduler is not None:
            scheduler.step()


def batches_of_steps(sampler: Any, steps: int, accumulate: int) -> Iterator[list[list[SampleKey]]]:
    """Yield the batches of each step, epoch after epoch.

    Args:
        sampler: gives the batches of an epoch, see `BatchPlan.build`.
        steps: how many; the last epoch may be cut.
        accumulate: batches of a step; the last step of an epoch takes what is left.
    """
    done, epoch = 0, 0
    while True:
        sampler.set_epoch(epoch)
        batches = iter(sampler)
        while step := list(itertools.islice(batches, accumulate)):
            yield step
            done += 1
            if done == steps:
                return
        epoch += 1


def _predict(fold: Fold, chosen: BoolArray, at_once: int) -> FloatArray:
    module = fold.module.eval()
    numbers = np.flatnonzero(chosen).tolist()
    parts = []
    with torch.no_grad():
        for start in range(0, len(numbers), at_once):
            batch = fold.read(numbers[start : start + at_once], None)
            parts.append(module.network(batch).probabilities(module.task))
    scores: FloatArray = torch.cat(parts).double().numpy()
    return scores
