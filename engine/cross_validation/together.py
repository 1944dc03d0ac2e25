"""Training the folds of a cross-validation together, as one module on packed bags.

A step of a small network on a bag or two is nearly all overhead. Folds have networks of one
architecture, take equally many steps and need no gradient of one another, so a step of F folds can
be one: their batches are packed into one (`structures.BagBatch`), their weights stacked
(`grouped_layers`). Each fold keeps its own initial weights, order of bags, standardisation, random
numbers of dropout, gradient norm and threshold, so every prediction is that of `run_fold` but for
rounding.

That holds where all weights are those of linear layers, all that is random is dropout, a bag's loss
is its own, and the optimizer works entry by entry. What of it can be read off the module is checked
by its parts. The rest is seen by the first batch, of which each loss term and its gradients have to
be those of each fold by itself, and by the last one, of which the loss terms have to: by then a
model has shown what it does only after some steps. Whatever does not pass is trained fold by fold
(A169).

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
from datamodules.sampling.keys import SampleKey
from engine.cross_validation.folds import (
    BagSet,
    Fold,
    FoldRecipe,
    FoldResult,
    FoldTask,
    finish_fold,
    naming_fold,
    prepare_fold,
    run_fold,
    training_steps,
)
from engine.cross_validation.grouped_layers import CannotGroupError
from engine.cross_validation.grouped_network import GroupedNetwork
from lightning_modules.mil import MILModule
from lightning_modules.staged import StagedMILModule
from structures import BagBatch

MOST_FOLDS = 50  # of a group; more would hardly make a step cheaper
_MOST_VALUES = 2**27  # features of a group, each fold's standardised by itself: two of 512 MiB
_ENTRYWISE = (SGD, Adam, AdamW)
_CLOSE = 1e-4  # of the largest gradient of a weight: rounding is a hundred times smaller
_HOOKS = ("training_terms", "total_loss", "weighted_sum", "loss_factors", "after_optimizer_step")


class _NotFiniteError(CannotGroupError):
    """The loss of a fold is not finite; ``position`` is the fold's in its group."""

    def __init__(self, position: int) -> None:
        super().__init__("a loss is not finite")
        self.position = position


class _Ready(NamedTuple):
    """A fold before its training.

    Attributes:
        fold: its module and bags.
        batches: bags of each batch of each step.
        steps: how many.
        random: torch's random state to go on from.
        shape: folds that are equal in it can be trained together: training bags, steps, and
            batches of an epoch.
    """

    fold: Fold
    batches: Iterator[list[list[SampleKey]]]
    steps: int
    random: Tensor
    shape: tuple[int, int, int]


def run_folds(
    bags: BagSet,
    tasks: Sequence[FoldTask],
    recipe: FoldRecipe,
    tell: Callable[[str], None] | None = None,
) -> list[FoldResult]:
    """Train and predict folds, together where that can be.

    Args:
        bags: the file, or the slides of a table.
        tasks: what to train. Without any, the call only says whether it can be together.
        recipe: how to train.
        tell: called with the reason where folds are, or would be, trained one by one.

    Returns:
        The result of each task in order.

    Raises:
        ValueError: as `run_fold`.
    """
    reason = _reason_apart(bags, recipe)
    if reason is None and isinstance(bags, BagFile):
        try:
            with torch.random.fork_rng(devices=[]):
                return _run_together(bags, tasks, recipe)
        except CannotGroupError as found:
            reason = str(found)
    if tell is not None and reason is not None:
        tell(reason)
    return [run_fold(bags, folds, recipe, key) for folds, key in tasks]


def _reason_apart(bags: BagSet, recipe: FoldRecipe) -> str | None:
    """Return why folds cannot be trained together, None if nothing shows before a first batch."""
    if not isinstance(bags, BagFile):
        return "slides are read one by one"
    if bags.features.size > _MOST_VALUES // 2:
        return "two copies of the features take too much memory"
    if recipe.plan.token_budget is not None:
        return "with token_budget batches differ in their number of bags"
    with torch.random.fork_rng(devices=[]):
        module = recipe.build(bags.num_classes, bags.in_features, bags.task)
        try:
            _check_module(module)
            _optimizer(module, GroupedNetwork([module.model], [torch.get_rng_state()], 1))
        except CannotGroupError as reason:
            return str(reason)
    return None


def _run_together(bags: BagFile, tasks: Sequence[FoldTask], recipe: FoldRecipe) -> list[FoldResult]:
    most = max(1, min(MOST_FOLDS, _MOST_VALUES // max(bags.features.size, 1)))
    alike: dict[int, list[int]] = defaultdict(list)
    for number, (folds, key) in enumerate(tasks):
        alike[int((folds != key[2]).sum())].append(number)
    results: dict[int, FoldResult] = {}
    for numbers in alike.values():
        for part in np.array_split(np.array(numbers), -(-len(numbers) // most)):
            ready = {n: _prepared(bags, tasks[n], recipe) for n in part.tolist()}
            for shape in dict.fromkeys(r.shape for r in ready.values()):
                group = {n: r for n, r in ready.items() if r.shape == shape}
                if len(group) > 1:
                    try:
                        _train(bags, list(group.values()), recipe)
                    except _NotFiniteError as fault:  # by itself the fold says which bag it is
                        number = list(group)[fault.position]
                        run_fold(bags, tasks[number][0], recipe, tasks[number][1])
                        raise
                    results |= {n: finish_fold(r.fold, bags) for n, r in group.items()}
        results |= {
            n: run_fold(bags, tasks[n][0], recipe, tasks[n][1]) for n in numbers if n not in results
        }
    return [results[number] for number in range(len(tasks))]


def _prepared(bags: BagFile, task: FoldTask, recipe: FoldRecipe) -> _Ready:
    with naming_fold(task[1]):
        fold = prepare_fold(bags, task[0], recipe, task[1])
        batches, steps, an_epoch = training_steps(fold, bags, recipe)
    shape = (len(fold.numbers), steps, an_epoch)
    return _Ready(fold, batches, steps, torch.get_rng_state(), shape)


def _check_module(module: MILModule) -> None:
    """Refuse a protocol that does more than losses of a batch.

    Raises:
        CannotGroupError: the module does.
    """
    if isinstance(module, StagedMILModule):
        raise CannotGroupError(f"{type(module).__name__} is the second of two stages")
    for hook in _HOOKS:
        if getattr(type(module), hook) is not getattr(MILModule, hook):
            raise CannotGroupError(f"{type(module).__name__} has a training protocol of its own")


def _train(bags: BagFile, group: Sequence[_Ready], recipe: FoldRecipe) -> None:
    """Train the folds of a group; each fold's module has its weights afterwards."""
    lead, steps = group[0].fold.module, group[0].steps
    modules = [ready.fold.module.train() for ready in group]
    everything = BagBatch.collate([r.fold.read(range(bags.labels.size), None) for r in group])
    size = min(recipe.plan.batch_size, len(group[0].fold.numbers))
    network = GroupedNetwork([m.model for m in modules], [r.random for r in group], size)
    optimizer = _optimizer(lead, network)
    schedule = lead.scheduler_factory
    scheduler = None if schedule is None else schedule(optimizer, steps)
    starts = torch.arange(len(group)).unsqueeze(1) * bags.labels.size  # of each fold's copy
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
        CannotGroupError: it is not known to work entry by entry.
    """
    optimizer = lead.build_optimizer()
    if type(optimizer) not in _ENTRYWISE:
        raise CannotGroupError(f"{type(optimizer).__name__} may not work entry by entry")
    for group in optimizer.param_groups:
        group["params"] = [network.stacked(parameter) for parameter in group["params"]]
        group["foreach"], group["fused"] = False, True  # one pass over what fills the cache
    return optimizer


def _compare(
    group: Sequence[_Ready], network: GroupedNetwork, batch: BagBatch, *, gradients: bool
) -> None:
    """Compare a batch's losses, and their gradients, with those of each fold by itself.

    Folds have the group's weights; random numbers go on afterwards as if nothing had been drawn.

    Raises:
        CannotGroupError: they differ, or a pass changes the state of a network.
    """
    size, states = len(batch) // len(group), network.random_states()
    terms = network.losses(batch)
    if gradients:  # of all terms alike: what a term weighs may change with the training
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
            raise CannotGroupError("beside other folds a fold's loss or its gradient is another")
        if not all(map(torch.equal, before, module.buffers())):
            raise CannotGroupError("a pass changes the state of the network")
    network.zero_grad()
    network.rewind(states)
