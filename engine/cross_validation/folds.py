"""Training and prediction of one fold of a cross-validation.

The training loop does not use a Trainer, because fifty runs of one or two seconds would spend most
of their time on a Trainer's overhead. It uses the model, loss weights, optimizer, schedule and
threshold of a `MILModule`.
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
from datamodules.mil.chunks import ChunkedBags
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
# Returns a batch of the bags with the given numbers, for a training epoch or, with None, uncut.
Reader = Callable[[Sequence[int], int | None], BagBatch]
# (B,) fold of each bag, and (seed, repeat, fold).
FoldTask = tuple[npt.NDArray[np.int64], tuple[int, int, int]]

_TRAINING_PURPOSE = 6
_PREDICTION_BATCH = 256  # bags of an npz file; slides are read one by one


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
            the module does not choose one.
        first: same as ``build`` for the first stage, or None. The first stage is trained with the
            same settings on the same bags.
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
    """Predictions of a fold's model.

    Attributes:
        test: (B,) bool, test bags of the fold.
        probabilities: (T,) or (T, C), probabilities of the test bags in order.
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
        bags: the npz file, or the slides of a table.
        folds: (B,) fold of each bag.
        recipe: training settings.
        key: (seed, repeat, fold); together with the bags and the recipe it determines the result.

    Raises:
        ValueError: there are too few training bags for the recipe, or a loss is not finite; the
            message names repeat and fold.
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
    """Prepend repeat and fold of (seed, repeat, fold) to the message of a ValueError.

    `DataProblems` pass unchanged: they name their file and do not depend on the fold.
    """
    try:
        yield
    except DataProblems:
        raise
    except ValueError as error:
        raise ValueError(f"repeat {key[1]}, fold {key[2]}: {error}") from error


@dataclass(frozen=True, slots=True)
class Fold:
    """A fold and its module.

    Attributes:
        module: the module, before or after training.
        test: (B,) bool, the test bags.
        val: (B,) bool, the bags to choose the threshold on.
        numbers: numbers of the training bags.
        read: returns batches of bags by their numbers.
        seed: seed of the training.
        chunks: chunks of the bags to train on, or None to train on bags.
    """

    module: MILModule
    test: BoolArray
    val: BoolArray
    numbers: list[int]
    read: Reader
    seed: int
    chunks: ChunkedBags | None = None

    def batch(self, keys: Sequence[SampleKey]) -> BagBatch:
        """Return a training batch."""
        if self.chunks is None:
            return self.read([key.index for key in keys], keys[0].epoch)
        return BagBatch.collate([self.chunks[key] for key in keys])


def prepare_fold(
    bags: BagSet, folds: npt.NDArray[np.int64], recipe: FoldRecipe, key: tuple[int, int, int]
) -> Fold:
    """Build a fold's module and select its bags; see `run_fold` for the arguments.

    Seeds torch's random number generator, whose state afterwards is the one to train from.
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
    source, chunk = _source(bags, train, recipe), recipe.plan.chunk_instances
    return Fold(
        module,
        test,
        val,
        np.flatnonzero(train).tolist(),
        _reader(source, recipe, run_seed),
        run_seed,
        None if chunk is None else ChunkedBags(source, chunk, run_seed),
    )


def finish_fold(fold: Fold, bags: BagSet) -> FoldResult:
    """Choose the threshold of a trained fold if it has validation bags, and predict its test bags.

    Returns:
        The predictions and the threshold.
    """
    threshold = fold.module.threshold
    batch_size = _PREDICTION_BATCH if isinstance(bags, BagFile) else 1
    if fold.val.any():
        scores = _predict(fold, fold.val, batch_size)
        threshold = youden_threshold(bags.labels[fold.val], scores)
    return FoldResult(fold.test, _predict(fold, fold.test, batch_size), threshold)


def _source(bags: BagSet, train: BoolArray, recipe: FoldRecipe) -> FeatureSet | BagBatch:
    if isinstance(bags, FeatureSet):
        return bags
    statistics = None
    if recipe.standardise:
        statistics = Standardisation.fit(bags.features[bags.rows_of(train)], recipe.clip)
    return packed(bags, statistics)


def _reader(bags: FeatureSet | BagBatch, recipe: FoldRecipe, seed: int) -> Reader:
    if isinstance(bags, FeatureSet):
        cut, whole = FeatureBags(bags, recipe.plan.max_instances, seed), FeatureBags(bags)

        def read(numbers: Sequence[int], epoch: int | None) -> BagBatch:
            slides = whole if epoch is None else cut
            return BagBatch.collate([slides[SampleKey(n, epoch or 0)] for n in numbers])

        return read
    return lambda numbers, epoch: select_bags(bags, torch.tensor(numbers))


def training_steps(
    fold: Fold, bags: BagSet, recipe: FoldRecipe
) -> tuple[Iterator[list[list[SampleKey]]], int, int]:
    """Return the batches of each step, the number of steps and the batches per epoch.

    Also sets the training bags of the module.
    """
    module, numbers = fold.module, fold.numbers
    plan = recipe.plan
    if plan.chunk_instances is None:
        plan = dataclasses.replace(plan, batch_size=min(plan.batch_size, len(numbers)))
    sampler = plan.build(numbers, bags.labels, bags.sizes, bags.weights, fold.seed)
    limits = [] if recipe.max_steps is None else [recipe.max_steps]
    if recipe.max_epochs is not None:
        limits.append(recipe.max_epochs * -(-len(sampler) // recipe.accumulate))
    chosen = np.asarray(numbers)
    module.set_training_bags(chosen, bags.labels[chosen], bags.sizes[chosen])
    return batches_of_steps(sampler, min(limits), recipe.accumulate), min(limits), len(sampler)


def train_fold(fold: Fold, bags: BagSet, recipe: FoldRecipe) -> None:
    """Train the module of a fold on its training bags, without a first stage."""
    module = fold.module
    known = bags.numbers() if isinstance(bags, BagFile) else []  # bag numbers, for messages
    batches_of_steps, steps, _ = training_steps(fold, bags, recipe)
    optimizer = module.build_optimizer()
    schedule = module.scheduler_factory
    scheduler = None if schedule is None else schedule(optimizer, steps)
    module.train()
    for step, batches in enumerate(batches_of_steps):
        module.progress = step / steps
        optimizer.zero_grad()
        for keys in batches:
            batch = fold.batch(keys)
            names = batch.bag_ids or [known[key.index] for key in keys]
            loss = module.total_loss(module.training_terms(batch), names)
            # Same as the Trainer, also for the last step of an epoch with fewer batches.
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
        sampler: yields the batches of an epoch, see `BatchPlan.build`.
        steps: number of steps; the last epoch may be cut short.
        accumulate: batches per step; the last step of an epoch may have fewer.
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


def _predict(fold: Fold, chosen: BoolArray, batch_size: int) -> FloatArray:
    module = fold.module.eval()
    numbers = np.flatnonzero(chosen).tolist()
    parts = []
    with torch.no_grad():
        for start in range(0, len(numbers), batch_size):
            batch = fold.read(numbers[start : start + batch_size], None)
            parts.append(module.network(batch).probabilities(module.task))
    scores: FloatArray = torch.cat(parts).double().numpy()
    return scores
