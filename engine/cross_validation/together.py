"""Training of the folds of a cross-validation together, as one module on packed bags.

A step of a small network on one or two bags is mostly overhead. Folds have networks of one
architecture, take the same number of steps and have independent gradients, so the steps of F folds
are computed as one: their batches are packed (`structures.BagBatch`) and their weights stacked
(`grouped_layers`). Each fold keeps its own initial weights, order of bags, standardisation, random
numbers of dropout, gradient norm and threshold, so every prediction equals `run_fold`'s up to
rounding errors.

This requires that all weights belong to linear layers, that dropout is the only source of
randomness, that the loss of a bag does not depend on other bags, and that the optimizer is
elementwise. Part of this is checked on the modules of the network. For the rest, the loss terms and
gradients of the first batch are compared with those of each fold by itself, and so are the loss
terms of the last batch, since a model may behave differently after some steps. If a check fails,
the folds are trained one by one (A169).

Letters: F folds, N instances, B bags of a file, b bags of a fold's batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from datamodules.mil.base import select_bags
from datamodules.mil.npz_file import BagFile
from datamodules.mil.targets.strata import unlabelled
from engine.cross_validation.fold import (
    CPU,
    SILENT,
    BagSet,
    Fold,
    FoldHooks,
    FoldRecipe,
    FoldResult,
    FoldTask,
    training_part,
)
from engine.cross_validation.folds import (
    finish_fold,
    naming_fold,
    prepare_fold,
    run_fold,
    training_steps,
)
from engine.cross_validation.grouped_layers import CannotGroupError
from engine.cross_validation.grouped_network import GroupedNetwork
from engine.cross_validation.reading import StepKeys
from lightning_modules.mil import MILModule
from lightning_modules.staged import StagedMILModule
from structures import BagBatch

MOST_FOLDS = 50  # folds per group; more would hardly make a step cheaper
_MOST_VALUES = 2**27  # feature values per group, which has a standardised copy for each fold
_ELEMENTWISE = (SGD, Adam, AdamW)
_CLOSE = 1e-4  # relative to the largest gradient of a weight; rounding is a hundred times smaller
_HOOKS = ("training_terms", "total_loss", "weighted_sum", "loss_factors", "after_optimizer_step")


class _NotFiniteError(CannotGroupError):
    """The loss of a fold is not finite; ``position`` is the index of the fold in its group."""

    def __init__(self, position: int) -> None:
        super().__init__("a loss is not finite")
        self.position = position


class _Ready(NamedTuple):
    """A fold before its training.

    Attributes:
        fold: the module and its bags.
        batches: the bags of each batch of each step.
        steps: number of steps.
        random: torch's random state to train from.
        shape: (training bags, steps, batches per epoch); folds of equal shape can be trained
            together.
    """

    fold: Fold
    batches: Iterator[StepKeys]
    steps: int
    random: Tensor
    shape: tuple[int, int, int]


def run_folds(
    bags: BagSet,
    tasks: Sequence[FoldTask],
    recipe: FoldRecipe,
    report: Callable[[str], None] | None = None,
    hooks: FoldHooks = SILENT,
) -> list[FoldResult]:
    """Train and predict folds, together if possible.

    Args:
        bags: the npz file, or the slides of a table.
        tasks: the folds to train. If empty, only the check whether they can be trained together is
            made.
        recipe: training settings.
        report: called with the reason if folds are, or would be, trained one by one.
        hooks: told about the training.

    Returns:
        The result of each task in order.

    Raises:
        ValueError: see `run_fold`.
    """
    reason = _reason_apart(bags, recipe)
    if reason is None and isinstance(bags, BagFile):
        try:
            with torch.random.fork_rng(devices=[]):
                return _run_together(bags, tasks, recipe, hooks)
        except CannotGroupError as found:
            reason = str(found)
    if report is not None and reason is not None:
        report(reason)
    return [run_fold(bags, folds, recipe, key, hooks) for folds, key in tasks]


def _reason_apart(bags: BagSet, recipe: FoldRecipe) -> str | None:
    """Return why folds cannot be trained together, or None if only a batch can show it."""
    if not isinstance(bags, BagFile):
        return "slides are read one by one"
    large = bags.features.size > _MOST_VALUES // 2
    some_unknown = bags.task == "regression" and unlabelled(bags.labels).any()
    for applies, reason in (
        (bags.task == "cox", "the loss of cox compares the bags of a batch with each other"),
        (some_unknown, "bags without a known value do not count in the mean of a batch"),
        (recipe.selection is not None, "each fold selects its own weights"),
        (recipe.device != CPU, f"they are trained on {recipe.device}"),
        (large, "two copies of the features take too much memory"),
        (recipe.plan.token_budget, "with token_budget batches differ in their number of bags"),
        (recipe.plan.chunk_instances, "with chunk_instances batches have parts of bags"),
    ):
        if applies:
            return reason
    with torch.random.fork_rng(devices=[]):
        module = recipe.build(bags.num_classes, bags.in_features, bags.task)
        try:
            _check_module(module)
            _optimizer(module, GroupedNetwork([module.model], [torch.get_rng_state()], 1))
        except CannotGroupError as error:
            return str(error)
    return None


def _run_together(
    bags: BagFile, tasks: Sequence[FoldTask], recipe: FoldRecipe, hooks: FoldHooks
) -> list[FoldResult]:
    most = max(1, min(MOST_FOLDS, _MOST_VALUES // max(bags.features.size, 1)))
    alike: dict[int, list[int]] = defaultdict(list)
    for number, (folds, key) in enumerate(tasks):
        alike[int(training_part(folds, key).sum())].append(number)
    results: dict[int, FoldResult] = {}
    for numbers in alike.values():
        for part in np.array_split(np.array(numbers), -(-len(numbers) // most)):
            ready = {n: _prepared(bags, tasks[n], recipe) for n in part.tolist()}
            for shape in dict.fromkeys(r.shape for r in ready.values()):
                group = {n: r for n, r in ready.items() if r.shape == shape}
                if len(group) > 1:
                    try:
                        _train(bags, list(group.values()), recipe)
                    except _NotFiniteError as fault:  # rerun alone: its error names the bag
                        number = list(group)[fault.position]
                        run_fold(bags, tasks[number][0], recipe, tasks[number][1])
                        raise
                    for n, ready_fold in group.items():
                        results[n] = finish_fold(ready_fold.fold, bags, recipe, tasks[n][1], hooks)
        for n in numbers:
            if n not in results:
                results[n] = run_fold(bags, tasks[n][0], recipe, tasks[n][1], hooks)
    return [results[number] for number in range(len(tasks))]


def _prepared(bags: BagFile, task: FoldTask, recipe: FoldRecipe) -> _Ready:
    with naming_fold(task[1]):
        fold = prepare_fold(bags, task[0], recipe, task[1])
        batches, steps, epoch_length = training_steps(fold, bags, recipe)
    shape = (len(fold.numbers), steps, epoch_length)
    return _Ready(fold, batches, steps, torch.get_rng_state(), shape)


def _check_module(module: MILModule) -> None:
    """Check that training consists of the losses of a batch only.

    Raises:
        CannotGroupError: the module has its own training protocol.
    """
    if isinstance(module, StagedMILModule):
        raise CannotGroupError(f"{type(module).__name__} is the second of two stages")
    for hook in _HOOKS:
        if getattr(type(module), hook) is not getattr(MILModule, hook):
            raise CannotGroupError(f"{type(module).__name__} has a training protocol of its own")


def _train(bags: BagFile, group: Sequence[_Ready], recipe: FoldRecipe) -> None:
    """Train the modules of a group of folds in place."""
    lead, steps = group[0].fold.module, group[0].steps
    modules = [ready.fold.module.train() for ready in group]
    numbers = range(len(bags.labels))  # labels are coded by the training bags of each fold
    coded = [r.fold.module.coded(r.fold.read(numbers, None)) for r in group]
    everything = BagBatch.collate(coded)
    size = min(recipe.plan.batch_size, len(group[0].fold.numbers))
    network = GroupedNetwork([m.model for m in modules], [r.random for r in group], size)
    optimizer = _optimizer(lead, network)
    schedule = lead.scheduler_factory
    scheduler = None if schedule is None else schedule(optimizer, steps)
    starts = torch.arange(len(group)).unsqueeze(1) * len(bags.labels)  # start of each fold's copy
    for step, batches_of_folds in enumerate(zip(*(r.batches for r in group), strict=True)):
        lead.progress = step / steps
        optimizer.zero_grad()
        for place, keys in enumerate(zip(*batches_of_folds, strict=True)):  # a batch of each fold
            chosen = torch.tensor([[key.index for key in batch] for batch in keys])
            batch = select_bags(everything, (chosen + starts).flatten())
            if step == place == 0:
                _compare(group, network, batch, gradients=True)
            terms = network.losses(batch)
            loss = lead.weighted_sum({n: t.sum() for n, t in terms.items()})
            if not bool(torch.isfinite(loss)):
                finite = torch.stack([*terms.values()]).isfinite().all(0)  # (F,)
                raise _NotFiniteError(int(finite.int().argmin()))
            (loss / recipe.accumulate).backward()  # type: ignore[no-untyped-call]
        if recipe.clip_norm is not None:
            network.clip_gradients(recipe.clip_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    network.hand_back()
    _compare(group, network, batch, gradients=False)


def _optimizer(lead: MILModule, network: GroupedNetwork) -> Optimizer:
    """Return the recipe's optimizer on the stacked weights.

    Raises:
        CannotGroupError: the optimizer is not known to be elementwise.
    """
    optimizer = lead.build_optimizer()
    if type(optimizer) not in _ELEMENTWISE:
        raise CannotGroupError(f"{type(optimizer).__name__} may not be elementwise")
    for group in optimizer.param_groups:
        group["params"] = [network.stacked(parameter) for parameter in group["params"]]
        group["foreach"], group["fused"] = False, True  # a single pass over the memory
    return optimizer


def _compare(
    group: Sequence[_Ready], network: GroupedNetwork, batch: BagBatch, *, gradients: bool
) -> None:
    """Compare a batch's losses, and their gradients, with those of each fold by itself.

    The modules of the folds must have the group's weights. The random states are restored.

    Raises:
        CannotGroupError: they differ, or a forward pass changes the state of a network.
    """
    size, states = len(batch) // len(group), network.random_states()
    terms = network.losses(batch)
    if gradients:  # all terms weigh the same here: their weights may change during training
        torch.stack([*terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
    for position, ready in enumerate(group):
        module = ready.fold.module
        before = [buffer.clone() for buffer in module.buffers()]
        bags = select_bags(batch, torch.arange(position * size, (position + 1) * size))
        torch.set_rng_state(states[position])
        alone = module.training_terms(bags)
        same = set(alone) == set(terms) and all(
            torch.allclose(term, terms[name][position], rtol=_CLOSE, atol=_CLOSE)
            for name, term in alone.items()
        )
        if same and gradients:
            torch.stack([*alone.values()]).sum().backward()  # type: ignore[no-untyped-call]
            same = network.same_gradients(position, _CLOSE)
        module.zero_grad()
        if not same:
            raise CannotGroupError("a fold's loss or its gradient depends on the other folds")
        if not all(map(torch.equal, before, module.buffers())):
            raise CannotGroupError("a forward pass changes the state of the network")
    network.zero_grad()
    network.rewind(states)
