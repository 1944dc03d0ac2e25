"""Training and predicting one fold of a cross-validation.

The loop is written out instead of handed to a Trainer because fifty runs of a second or two would
spend most of their time on a Trainer's bookkeeping. It takes a `MILModule` for what it describes:
model, loss weights, optimizer, schedule and threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from datamodules.bag_file import BagFile
from datamodules.bags import take_bags
from datamodules.folds import hold_out
from datamodules.samplers import EpochBatchSampler, keyed_generator
from datamodules.standardisation import Standardisation
from datamodules.tabular_bags import facts_of, packed
from evaluation.mil import youden_threshold
from lightning_modules.mil import MILModule
from structures import BagBatch, MILTask

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

_TRAINING_PURPOSE = 6
_PREDICTED_AT_ONCE = 256  # bags


@dataclass(frozen=True, slots=True)
class FoldRecipe:
    """How to train a fold.

    Attributes:
        build: makes a module with new weights from number of classes, feature width and task.
        batch_size: bags a step.
        max_steps: optimizer steps.
        clip_norm: largest gradient norm, or None.
        standardise: centre and scale features by the training bags.
        clip: largest absolute value of a standardised feature, or None.
        val_fraction: share of the training bags held out to choose the threshold, where the
            module chooses one; otherwise all of them are trained on.
    """

    build: Callable[[int, int, MILTask], MILModule]
    batch_size: int
    max_steps: int
    clip_norm: float | None = None
    standardise: bool = True
    clip: float | None = None
    val_fraction: float = 0.2


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
    bags: BagFile,
    folds: npt.NDArray[np.int64],
    recipe: FoldRecipe,
    key: tuple[int, int, int],
) -> FoldResult:
    """Train on all folds but one and predict that one.

    Args:
        bags: the file.
        folds: (B,) fold of each bag.
        recipe: how to train.
        key: (seed, repeat, fold), which with the bags and the recipe fixes the result.

    Raises:
        ValueError: fewer training bags than a batch, or a loss that is not finite.
    """
    test = folds == key[2]
    train, val = ~test, np.zeros_like(test)
    run_seed = int(keyed_generator(_TRAINING_PURPOSE, *key).integers(2**31))
    num_classes, task = facts_of(bags)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run_seed)
        module = recipe.build(num_classes, bags.features.shape[1], task)
        choose = module.choose_threshold and task == "binary"
        if choose:
            groups = [bags.groups[b] for b in np.flatnonzero(train)] if bags.groups else ()
            val[train] = hold_out(bags.labels[train], recipe.val_fraction, key, groups)
            train = train & ~val
            if not val.any():
                raise ValueError("threshold: youden needs validation bags; raise val_fraction")
        statistics = None
        if recipe.standardise:
            statistics = Standardisation.fit(bags.features[bags.rows_of(train)], recipe.clip)
        prepared = packed(bags, statistics)
        _train(module, prepared, np.flatnonzero(train).tolist(), recipe, run_seed)
    threshold = module.threshold
    if choose:
        threshold = youden_threshold(bags.labels[val], _predict(module, prepared, val))
    return FoldResult(test, _predict(module, prepared, test), threshold)


def _train(
    module: MILModule, bags: BagBatch, numbers: Sequence[int], recipe: FoldRecipe, seed: int
) -> None:
    optimizer = module.build_optimizer()
    schedule = module.scheduler_factory
    scheduler = None if schedule is None else schedule(optimizer, recipe.max_steps)
    module.train()
    for positions in _batches(numbers, recipe, seed):
        batch = take_bags(bags, positions)
        terms = module.network.losses(module.network(batch), batch)
        loss = module.total_loss(terms, positions.tolist())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def _batches(numbers: Sequence[int], recipe: FoldRecipe, seed: int) -> Iterator[Tensor]:
    """Yield the bags of each step, epoch after epoch."""
    size = min(recipe.batch_size, len(numbers))
    sampler = EpochBatchSampler(numbers, size, shuffle=True, seed=seed, drop_last=True)
    step, epoch = 0, 0
    while step < recipe.max_steps:
        sampler.set_epoch(epoch)
        for keys in sampler:
            yield torch.tensor([key.index for key in keys])
            step += 1
            if step == recipe.max_steps:
                return
        epoch += 1


def _predict(module: MILModule, bags: BagBatch, chosen: BoolArray) -> FloatArray:
    module.eval()
    numbers = np.flatnonzero(chosen)
    parts = []
    with torch.no_grad():
        for start in range(0, numbers.size, _PREDICTED_AT_ONCE):
            some = torch.from_numpy(numbers[start : start + _PREDICTED_AT_ONCE])
            parts.append(module.network(take_bags(bags, some)).probabilities(module.task))
    scores: FloatArray = torch.cat(parts).double().numpy()
    return scores
