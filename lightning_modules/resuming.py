"""What makes a resumed training repeat the uninterrupted one bit for bit.

Weights, optimizer, schedule and counters come from the checkpoint; the order of the data and all
random numbers are functions of seed, epoch and batch, so nothing of them needs to be saved.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from formats.weights.compare import compare_weights, some_of
from optim.schedules import WarmupSchedule

_PURPOSE = 7919  # separates these streams from those of other uses of the same numbers


def seed_batch(seed: int, rank: int, batch: int, device: str = "cpu") -> None:
    """Seed torch, numpy and Python for one training batch of one process.

    Dropout and the like then depend on the numbers alone: not on what ran before, not on
    validation or callbacks, and a resumed run draws what the uninterrupted one draws.  # A73

    Args:
        seed: of the run, non-negative.
        rank: of the process.
        batch: number of the batch, counted over all epochs.
        device: kind of device that the network runs on.
    """
    words = np.random.SeedSequence([_PURPOSE, seed, rank, batch]).generate_state(4)
    key = int(words[0]) << 32 | int(words[1])
    if device == "cpu":  # a hundred times quicker than to seed devices that nobody uses
        torch.default_generator.manual_seed(key)
    else:
        torch.manual_seed(key)
    np.random.seed(words[2])
    random.seed(int(words[3]))


def fix_counters(checkpoint: Mapping[str, Any]) -> bool:
    """Make the loop counters of a checkpoint say whether its epoch is over.

    Lightning saves them while an epoch closes. Under ``max_steps`` it then takes a finished epoch
    for unfinished, and goes on one epoch ahead; and an epoch inside which a limit of steps or time
    ended the run it takes for finished, and leaves the rest of its data out.

    Args:
        checkpoint: a checkpoint's content; its counters are changed in place.

    Returns:
        Whether the checkpoint is from the end of an epoch.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    if epochs["current"]["processed"] < epochs["current"]["started"]:
        return False
    if batches["current"]["completed"] and not batches["is_last_batch"]:
        for scope in ("current", "total"):
            done = epochs[scope]["started"] - 1
            epochs[scope] |= {"processed": done, "completed": done}
        return False
    for scope in ("current", "total"):
        epochs[scope] = dict.fromkeys(epochs[scope], epochs[scope]["processed"])
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False
    return True


@runtime_checkable
class Stateful(Protocol):
    """A loader whose place in the epoch can be set."""

    def load_state_dict(self, state: dict[str, int], /) -> None:
        """Go to a place."""
        ...


def loader_state(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Return the place in the epoch of the training loader of a checkpoint."""
    states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    return dict(states[0]) if states else {"epoch": -1, "batches": 0}


def check_weights(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse weights of another network.

    Args:
        found: the checkpoint's ``state_dict``.
        wanted: the module's.

    Raises:
        ValueError: a name or a shape differs; the message lists some.
    """
    missing, unexpected, mismatched = compare_weights(found, wanted)
    faults = [f"{n}: not in the checkpoint" for n in missing]
    faults += [f"{n}: not in the model" for n in unexpected]
    faults += [
        f"{n}: {theirs} in the checkpoint, {ours} in the model"
        for n, (theirs, ours) in mismatched.items()
    ]
    if faults:
        raise ValueError(
            f"the checkpoint's weights are of another model ({some_of(faults)}). Give the recipe "
            "it was trained with, or start a new training from its weights by "
            "model.init_args.init_from"
        )


def check_state(checkpoint: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Refuse to resume from a checkpoint without the state of an optimizer like this one.

    Raises:
        ValueError: the checkpoint has weights alone, or other parameters were trained.
    """
    remedy = "start a new training from its weights by model.init_args.init_from"
    if not checkpoint.get("optimizer_states") or "loops" not in checkpoint:
        raise ValueError(f"the checkpoint holds weights alone, so nothing can be resumed; {remedy}")
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    theirs, ours = ([len(g["params"]) for g in gs] for gs in (groups, optimizer.param_groups))
    if theirs != ours:
        raise ValueError(
            f"the checkpoint's optimizer has groups of {theirs} parameters, this one has {ours}: "
            f"other parameters are trained now; give the recipe of the checkpoint, or {remedy}"
        )


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dictionaries with their dotted names."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return what differs between two configurations as ``name: theirs -> ours``."""
    old, new = dict(leaves(theirs)), dict(leaves(ours))
    missing = "not given"
    return [
        f"{name}: {old.get(name, missing)} -> {new.get(name, missing)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, missing) != new.get(name, missing)
    ]


def hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the options of each parameter group of a new optimizer, before any schedule."""
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def follow_configuration(
    optimizer: Optimizer,
    configured: Sequence[Mapping[str, Any]],
    scheduler: LRScheduler | None,
) -> None:
    """Give a loaded optimizer the options of the configuration instead of the checkpoint's.

    Torch loads learning rate, decay and the like with the state, so a changed recipe would be
    ignored. Where nothing was changed, this changes nothing.

    Args:
        optimizer: with the checkpoint's state.
        configured: `hyperparameters` of the optimizer as it was built.
        scheduler: with the checkpoint's step.
    """
    for group, options in zip(optimizer.param_groups, configured, strict=True):
        for name, value in options.items():
            # A schedule keeps the configured rate under another name.
            group["initial_lr" if name == "lr" and scheduler is not None else name] = value
    if scheduler is not None and hasattr(scheduler, "factor"):
        for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = rate
    if isinstance(scheduler, WarmupSchedule):
        scheduler.set_options()
