"""Functions that make a resumed training equal the uninterrupted one bit for bit.

Weights, optimizer, schedule and counters come from the checkpoint; the order of the data and all
random numbers are functions of seed, epoch and batch, so no random state needs to be saved.
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

    Dropout and other random operations then depend on these numbers alone, not on earlier batches,
    validation or callbacks, and a resumed run draws the same numbers as an uninterrupted one (A73).

    Args:
        seed: seed of the run, non-negative.
        rank: rank of the process.
        batch: index of the batch, counted over all epochs.
        device: type of the device that the network runs on.
    """
    words = np.random.SeedSequence([_PURPOSE, seed, rank, batch]).generate_state(4)
    key = int(words[0]) << 32 | int(words[1])
    if device == "cpu":  # a hundred times faster than also seeding unused devices
        torch.default_generator.manual_seed(key)
    else:
        torch.manual_seed(key)
    np.random.seed(words[2])
    random.seed(int(words[3]))


def fix_counters(checkpoint: Mapping[str, Any]) -> bool:
    """Correct the loop counters of a checkpoint, so that they record whether its epoch is over.

    Lightning saves them while an epoch ends. With ``max_steps`` it then treats a finished epoch as
    unfinished and resumes one epoch too late; and it treats an epoch that a limit of steps or time
    interrupted as finished and skips the rest of its data.

    Args:
        checkpoint: content of a checkpoint; its counters are changed in place.

    Returns:
        True if the checkpoint was saved at the end of an epoch.
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
    """Loader whose position in the epoch can be set."""

    def load_state_dict(self, state: dict[str, int], /) -> None:
        """Move to a saved position."""
        ...


def loader_state(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Return the position of a checkpoint's training loader in its epoch."""
    states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    return dict(states[0]) if states else {"epoch": -1, "batches": 0}


def check_weights(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that weights belong to this network.

    Args:
        found: ``state_dict`` of the checkpoint.
        wanted: ``state_dict`` of the module.

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
            f"the checkpoint's weights belong to another model ({some_of(faults)}). Give the "
            "recipe it was trained with, or start a new training from its weights by "
            "model.init_args.init_from"
        )


def check_state(checkpoint: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Check that a checkpoint holds the state of an optimizer like this one.

    Raises:
        ValueError: the checkpoint holds only weights, or other parameters were trained.
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
    """Return the differences between two configurations as ``name: theirs -> ours``."""
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
    """Set the options of a loaded optimizer to those of the configuration.

    Torch loads options such as learning rate and weight decay with the state, so a changed recipe
    would be ignored. An unchanged recipe leaves the optimizer as loaded.

    Args:
        optimizer: optimizer with the state of the checkpoint.
        configured: `hyperparameters` of the optimizer as it was built.
        scheduler: scheduler at the step of the checkpoint.
    """
    for group, options in zip(optimizer.param_groups, configured, strict=True):
        for name, value in options.items():
            # A schedule stores the configured learning rate under another name.
            group["initial_lr" if name == "lr" and scheduler is not None else name] = value
    if scheduler is not None and hasattr(scheduler, "factor"):
        for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = rate
    if isinstance(scheduler, WarmupSchedule):
        scheduler.set_options()
