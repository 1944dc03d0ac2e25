"""Reading of how a recipe selects weights: ``checkpoint``, ``early_stopping``, ``callbacks``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pytorch_lightning.callbacks import EarlyStopping

from callbacks.run.early_stopping import EarlyStoppingOptions, StopEarly
from engine.config.errors import user_message
from engine.config.files import near_metrics
from engine.config.recipe import Recipe
from engine.config.sections import checked_section
from engine.cross_validation.selection import Interval, Mode, Selection, Stopping
from lightning_modules.mil import MILModule
from loggers.metric_names import best_of

# Arguments of Lightning's EarlyStopping that are followed, and those that change messages only.
_FOLLOWED = {"monitor", "min_delta", "patience", "mode"}
_MESSAGES = {"verbose", "log_rank_zero_only", "strict"}


def read_selection(config: Recipe, module: type[MILModule], val_fraction: float) -> Selection:
    """Read the metric of ``best.ckpt``, the intervals of validation and the early stopping.

    Args:
        config: the recipe.
        module: class of the module, which declares its metrics.
        val_fraction: share of the training bags to validate on.

    Raises:
        ValueError: no metric of the task is monitored, or a value is wrong or not followed.
    """
    saving = config.section("checkpoint", optional=True)
    monitor = saving.get("monitor")
    if monitor is None:
        raise ValueError(
            f"{config}: --select best needs a metric, but checkpoint.monitor names none; give one, "
            f"e.g. --checkpoint.monitor val/bag_auroc, or --select last"
        )
    mode = _mode(config, monitor, saving.get("mode"), module, "checkpoint")
    rules = (*_section(config, monitor, mode), *_callbacks(config, module))
    return Selection(monitor, mode, val_fraction, _interval(config), rules)


def early_stopping(config: Recipe) -> str | None:
    """Return what in the recipe stops a training early, or None; for messages."""
    if _given(config) is not None:
        return "early_stopping"
    return "trainer.callbacks" if any(callbacks_of(config)) else None


def callbacks_of(config: Recipe) -> Iterator[Mapping[str, Any]]:
    """Yield the callbacks of the trainer.

    Raises:
        ValueError: a callback is not an EarlyStopping, which is all that is followed.
    """
    given = config.section("trainer", optional=True).get("callbacks") or []
    for entry in given if isinstance(given, list) else [given]:
        section = {"class_path": entry} if isinstance(entry, str) else entry
        name = str(section.get("class_path")) if isinstance(section, Mapping) else str(section)
        if name.rpartition(".")[2] != "EarlyStopping":
            raise ValueError(
                f"{config}: the callback {name} of trainer.callbacks has no effect in "
                "cross-validation; leave it out, or give --trainer.callbacks null"
            )
        yield section


def _mode(config: Recipe, monitor: Any, given: Any, module: type[MILModule], where: str) -> Mode:
    """Check a monitored metric and return its best value."""
    logged = [name for name in module.metric_names if name.startswith("val/")]
    if not any(fnmatchcase(str(monitor), name) for name in logged):
        hint = near_metrics(str(monitor), logged) or f"it has {', '.join(logged)}"
        raise ValueError(
            f"{config}: {where}.monitor is {monitor}, which is no metric of a validation of bags; "
            f"{hint}"
        )
    if given not in (None, "max", "min"):
        raise ValueError(f"{config}: {where}.mode must be max or min, got {given!r}")
    mode: Mode = given or best_of(str(monitor), module) or "max"
    return mode


def _interval(config: Recipe) -> Interval:
    trainer = config.section("trainer")
    every = trainer.get("val_check_interval", 1.0)
    epochs = trainer.get("check_val_every_n_epoch", 1)
    every = 1.0 if every is None else every
    whole = isinstance(every, int) and not isinstance(every, bool) and every >= 1
    share = isinstance(every, float) and 0 < every <= 1 and epochs is not None
    if not (whole or share):
        raise ValueError(
            f"{config}: trainer.val_check_interval must be a number of batches, or a fraction of "
            "an epoch if trainer.check_val_every_n_epoch is a number; got "
            f"{every!r} and {epochs!r}"
        )
    if epochs is not None and (not isinstance(epochs, int) or epochs < 1):
        raise ValueError(
            f"{config}: trainer.check_val_every_n_epoch must be at least 1 or null, got {epochs!r}"
        )
    return Interval(every, epochs)


def _given(config: Recipe) -> dict[str, Any] | None:
    """Return the section ``early_stopping``; a later file with null removes it."""
    merged: dict[str, Any] | None = None
    for file, content in zip(config.files, config.contents(), strict=True):
        if "early_stopping" in content:
            section = content["early_stopping"]
            if section is not None and not isinstance(section, dict):
                raise ValueError(f"{file}: early_stopping must be a mapping, got {section!r}")
            merged = None if section is None else (merged or {}) | section
    for path, value in config.values():
        if path[0] == "early_stopping":
            merged = (merged or {}) | {".".join(path[1:]): value}
    return merged


def _section(config: Recipe, monitor: str, mode: Mode) -> Iterator[Stopping]:
    given = _given(config)
    if given is None:
        return
    known = [field.name for field in dataclasses.fields(EarlyStoppingOptions)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{config}: early_stopping has no {unknown[0]}; it has {', '.join(known)}")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{config}: early_stopping.{name} must be a number, got {value!r}")
    options = EarlyStoppingOptions(**given)
    try:
        StopEarly(options, monitor, mode)  # checks the numbers
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from None
    yield Stopping(monitor, mode, options.patience, options.min_delta)


def _callbacks(config: Recipe, module: type[MILModule]) -> Iterator[Stopping]:
    from jsonargparse import ArgumentError

    for entry in callbacks_of(config):
        try:
            parsed, _ = checked_section(EarlyStopping, "callbacks", entry)
        except ArgumentError as error:
            raise ValueError(f"{config}: trainer.{user_message(error)}") from None
        values = parsed.init_args.as_dict()
        defaults = inspect.signature(EarlyStopping).parameters
        ignored = set(values) - _FOLLOWED - _MESSAGES
        changed = sorted(n for n in ignored if values[n] != defaults[n].default)
        if changed:
            raise ValueError(
                f"{config}: {changed[0]} of EarlyStopping has no effect in cross-validation, which "
                f"follows {', '.join(sorted(_FOLLOWED))}; leave it out"
            )
        monitor = values["monitor"]
        mode = _mode(config, monitor, values["mode"], module, "EarlyStopping")
        yield Stopping(monitor, mode, values["patience"], values["min_delta"])
