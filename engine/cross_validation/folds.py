"""Training and prediction of one fold of a cross-validation.

The training loop does not use a Trainer, because fifty runs of one or two seconds would spend most
of their time on a Trainer's overhead. It uses the model, loss weights, optimizer, schedule and
threshold of a `MILModule`, and runs on the processor or an accelerator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from datamodules.mil.chunks import ChunkedBags
from datamodules.mil.feature_set import FeatureSet
from datamodules.mil.folds import hold_out
from datamodules.mil.npz import packed
from datamodules.mil.npz_file import BagFile
from datamodules.mil.standardisation import Standardisation
from datamodules.mil.targets.strata import drawn_by, stratum_labels
from datamodules.sampling.keys import keyed_generator
from engine.cross_validation.fold import (
    CPU,
    SILENT,
    BagSet,
    BoolArray,
    FloatArray,
    Fold,
    FoldHooks,
    FoldKey,
    FoldRecipe,
    FoldResult,
    training_part,
)
from engine.cross_validation.reading import StepKeys, reader
from engine.cross_validation.selection import Selected, Selector
from evaluation.mil.scores import youden_threshold
from lightning_modules.mil import MILModule
from lightning_modules.staged import StagedMILModule
from lightning_modules.targets.after_training import fitted as with_pass
from lightning_modules.targets.after_training import training_risks
from lightning_modules.targets.checks import check_step
from structures import BagBatch, DataProblems
from structures.not_finite import LossNotFiniteError
from structures.tasks import CLASS_TASKS

__all__ = ["Fold", "FoldRecipe", "FoldResult", "run_fold", "train_fold"]

_TRAINING_PURPOSE = 6


def run_fold(
    bags: BagSet,
    folds: npt.NDArray[np.int64],
    recipe: FoldRecipe,
    key: FoldKey,
    hooks: FoldHooks = SILENT,
) -> FoldResult:
    """Train on all folds but one and predict that one.

    Args:
        bags: the npz file, or the slides of a table.
        folds: (B,) fold of each bag; -1 for a bag that is neither trained on nor tested.
        recipe: training settings.
        key: (seed, repeat, fold); together with the bags and the recipe it determines the result.
        hooks: told about the training.

    Raises:
        ValueError: there are too few training bags for the recipe, or a loss is not finite; the
            message names repeat and fold.
    """
    with torch.random.fork_rng(devices=[]), naming_fold(key):
        fold, done = prepare_fold(bags, folds, recipe, key), 0.0
        if isinstance(fold.module, StagedMILModule):
            if recipe.first is not None:
                done = 0.5
                _first_stage(fold, bags, recipe, lambda share: hooks.progress(key, share / 2))
            fold.module.check_first_stage()
        tell = _part(hooks, key, done)
        selected = train_fold(fold, bags, recipe, tell)
        return finish_fold(fold, bags, recipe, key, hooks, selected)


def _part(hooks: FoldHooks, key: FoldKey, done: float) -> Callable[[float], None]:
    return lambda share: hooks.progress(key, done + (1 - done) * share)


def _first_stage(
    fold: Fold, bags: BagSet, recipe: FoldRecipe, tell: Callable[[float], None]
) -> None:
    """Train the first of two stages and pass its weights to the module of the fold."""
    assert recipe.first is not None and isinstance(fold.module, StagedMILModule)
    first = recipe.first(bags.num_classes, bags.in_features, bags.task)
    selection = fold.selection if fold.module.first_stage_weights == "best" else None
    train_fold(dataclasses.replace(fold, module=first, selection=selection), bags, recipe, tell)
    state = first.model.state_dict()
    fold.module.receive({name: tensor.to(CPU) for name, tensor in state.items()})


@contextlib.contextmanager
def naming_fold(key: FoldKey) -> Iterator[None]:
    """Prepend repeat and fold of (seed, repeat, fold) to the message of a ValueError.

    `DataProblems` pass unchanged: they name their file and do not depend on the fold. A
    `LossNotFiniteError` stays one.
    """
    try:
        yield
    except DataProblems:
        raise
    except LossNotFiniteError as error:
        raise LossNotFiniteError(f"repeat {key[1]}, fold {key[2]}: {error}") from error
    except ValueError as error:
        raise ValueError(f"repeat {key[1]}, fold {key[2]}: {error}") from error


def prepare_fold(
    bags: BagSet, folds: npt.NDArray[np.int64], recipe: FoldRecipe, key: FoldKey
) -> Fold:
    """Build a fold's module and select its bags; see `run_fold` for the arguments.

    Seeds torch's random number generator, whose state afterwards is the one to train from.
    """
    test, train = folds == key[2], training_part(folds, key)
    val = np.zeros_like(test)
    run_seed = int(keyed_generator(_TRAINING_PURPOSE, *key).integers(2**31))
    torch.manual_seed(run_seed)
    module = recipe.build(bags.num_classes, bags.in_features, bags.task)
    selection = recipe.selection
    if selection is not None:
        val = validation_bags(bags, train, selection.val_fraction, key)
        selection = selection.for_labels(bags.labels[val], bags.task, bags.num_classes)
    elif module.choose_threshold and bags.task == "binary":
        val[train] = _held_out(bags, train, recipe.val_fraction, key)
        if not val.any():
            raise ValueError("threshold: youden needs validation bags; raise val_fraction")
    train = train & ~val
    source, chunk = _source(bags, train, recipe), recipe.plan.chunk_instances
    return Fold(
        module,
        test,
        val,
        np.flatnonzero(train).tolist(),
        reader(source, recipe.plan.max_instances, run_seed),
        run_seed,
        None if chunk is None else ChunkedBags(source, chunk, run_seed),
        source if isinstance(source, FeatureSet) else None,
        selection,
    )


def validation_bags(bags: BagSet, train: BoolArray, fraction: float, key: FoldKey) -> BoolArray:
    """Return (B,) True for the bags to select weights on: those of ``fit --data.fold`` (A411)."""
    seed, repeat, number = key
    val = np.zeros_like(train)
    val[train] = _held_out(bags, train, fraction, (seed, 1, repeat, number + 1))
    if not val.any() or not (train & ~val).any():
        raise ValueError(
            f"--val-fraction {fraction:g} of {int(train.sum())} training bags leaves no bags to "
            "validate or to train on; give another share, or --select last"
        )
    return val


def _held_out(bags: BagSet, train: BoolArray, fraction: float, key: Sequence[int]) -> BoolArray:
    groups = [bags.groups[b] for b in np.flatnonzero(train)] if bags.groups else ()
    kinds = stratum_labels(bags.labels[train], bags.task, groups)
    return hold_out(kinds, fraction, key, groups)


def finish_fold(
    fold: Fold,
    bags: BagSet,
    recipe: FoldRecipe,
    key: FoldKey,
    hooks: FoldHooks = SILENT,
    selected: Selected | None = None,
) -> FoldResult:
    """Choose the threshold of a trained fold if it has validation bags, and predict its test bags.

    If weights were selected, the threshold is that of their validation.

    Returns:
        The predictions and the threshold.
    """
    module = fold.module.to(recipe.device).eval()
    if module.training_bags is not None:
        chosen = np.zeros_like(fold.test)
        chosen[fold.numbers] = True
        risks = training_risks(module, fold.whole_bags(chosen, recipe))
        module.training_bags = with_pass(module.training_bags, risks, fold.numbers, module)  # A632
    if fold.val.any() and selected is None:
        scores = predict(module, fold.whole_bags(fold.val, recipe))
        module.threshold = youden_threshold(bags.labels[fold.val], scores)
    scores = predict(module, fold.whole_bags(fold.test, recipe))
    of_targets = module.target_coding, module.training_bags
    result = FoldResult(fold.test, scores, module.threshold, selected, *of_targets)
    hooks.finished(key, fold, result)
    return result


def _source(bags: BagSet, train: BoolArray, recipe: FoldRecipe) -> FeatureSet | BagBatch:
    if isinstance(bags, FeatureSet):
        return bags
    return packed(bags, fitted(bags, train, recipe))


def fitted(bags: BagFile, train: BoolArray, recipe: FoldRecipe) -> Standardisation | None:
    """Return the statistics of the training bags marked in (B,), or None if none are used."""
    if not recipe.standardise:
        return None
    return Standardisation.fit(bags.features[bags.rows_of(train)], recipe.clip)


def training_steps(
    fold: Fold, bags: BagSet, recipe: FoldRecipe
) -> tuple[Iterator[StepKeys], int, int]:
    """Return the batches of each step, the number of steps and the batches per epoch.

    Also sets the training bags of the module.
    """
    module, numbers = fold.module, fold.numbers
    plan = recipe.plan
    if plan.chunk_instances is None:
        plan = dataclasses.replace(plan, batch_size=min(plan.batch_size, len(numbers)))
    kinds = drawn_by(bags.labels, bags.task, bags.groups, numbers)
    sampler = plan.build(numbers, kinds, bags.sizes, bags.weights, fold.seed)
    limits = [] if recipe.max_steps is None else [recipe.max_steps]
    if recipe.max_epochs is not None:
        limits.append(recipe.max_epochs * -(-len(sampler) // recipe.accumulate))
    chosen = np.asarray(numbers)
    module.set_training_bags(chosen, bags.labels[chosen], bags.sizes[chosen])
    if module.task not in CLASS_TASKS:
        module.fit_targets(bags.labels[chosen], bags.num_classes, bags.target_names)
        check_step(module.task, plan.batch_size)
    return batches_of_steps(sampler, min(limits), recipe.accumulate), min(limits), len(sampler)


def train_fold(
    fold: Fold,
    bags: BagSet,
    recipe: FoldRecipe,
    tell: Callable[[float], None] | None = None,
) -> Selected | None:
    """Train the module of a fold on its training bags, without a first stage.

    Args:
        fold: the fold; its module stays on the recipe's device.
        bags: all bags.
        recipe: training settings.
        tell: called with the share of the steps that are done.

    Returns:
        Which weights were selected and are loaded, or None for the last ones.
    """
    module = fold.module
    known = bags.numbers() if isinstance(bags, BagFile) else []  # bag numbers, for messages
    batches_of_steps, steps, epoch_length = training_steps(fold, bags, recipe)
    selector = None if fold.selection is None else Selector(fold.selection)
    if selector is not None and not fold.validates(0, steps * recipe.accumulate, epoch_length):
        raise ValueError(
            f"nothing is validated within {steps} steps, so that --select best has no weights to "
            "select; lower trainer.val_check_interval or train longer"
        )
    module.to(recipe.device)
    optimizer = module.build_optimizer()
    schedule = module.scheduler_factory
    scheduler = None if schedule is None else schedule(optimizer, steps)
    module.train()
    done, stops = 0, False  # batches
    keys_of_steps, to_read = itertools.tee(batches_of_steps)
    batches = fold.batches(itertools.chain.from_iterable(to_read), recipe)
    for step, keys_of_batches in enumerate(keys_of_steps):
        module.progress = step / steps
        optimizer.zero_grad()
        for keys, batch in zip(keys_of_batches, batches, strict=False):
            names = batch.bag_ids or [known[key.index] for key in keys]
            loss = module.total_loss(module.training_terms(module.coded(batch)), names)
            # Same as the Trainer, also for the last step of an epoch with fewer batches.
            (loss / recipe.accumulate).backward()  # type: ignore[no-untyped-call]
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
        optimizer.step()
        module.after_optimizer_step()
        if scheduler is not None:
            scheduler.step()
        before, done = done, done + len(keys_of_batches)
        if selector is not None and fold.validates(before, done, epoch_length):
            metrics = module.eval().validation_metrics(fold.whole_bags(fold.val, recipe))
            stops = selector.update(module, metrics, step + 1, before // epoch_length)
            module.train()
        if tell is not None:
            tell((step + 1) / steps)
        if stops:
            break
    return None if selector is None else selector.select(module, step + 1, stopped=stops)


def batches_of_steps(sampler: Any, steps: int, accumulate: int) -> Iterator[StepKeys]:
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


def predict(module: MILModule, batches: Iterator[BagBatch]) -> FloatArray:
    """Return the predictions of `MILModule.predicted` for batches on the module's device."""
    with torch.no_grad():
        parts = [module.predicted(module.network(bags)).to(CPU) for bags in batches]
    scores: FloatArray = torch.cat(parts).double().numpy()
    return scores
