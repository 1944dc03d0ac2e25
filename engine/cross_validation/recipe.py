"""Reading of the parts of a recipe that cross-validation uses."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datamodules.mil.base import MILDataModule
from datamodules.mil.samplers import BatchPlan
from engine.checkpoints.stages import staged_class
from engine.config.errors import user_message
from engine.config.recipe import Recipe
from engine.config.sections import checked_section, module_builder, plain
from engine.cross_validation.devices import FoldDevices, fold_devices
from engine.cross_validation.fold import FoldRecipe
from engine.cross_validation.monitoring import callbacks_of, early_stopping, read_selection
from lightning_modules.mil import MILModule
from lightning_modules.rebuilding import class_of

# Options of the trainer that do not change a fold. A recipe has them for `train.py`; as flags of
# this command they would have no effect.
_OUTPUT = {
    "enable_checkpointing",
    "enable_progress_bar",
    "log_every_n_steps",
    "num_sanity_val_steps",
}
_VALIDATION = {"callbacks", "check_val_every_n_epoch", "val_check_interval"}  # --select best
_DEVICES = {"accelerator", "devices"}
# Sections that would change a training of `train.py`, with what to do instead.
_SECTIONS = {
    "ema": "leave it out",
    "ckpt_path": "leave it out; a run that was killed goes on by the same command",
    "wandb": "give --wandb PROJECT",
}

# Arguments of the data that cross-validation sets itself. They are allowed in a recipe.
_OWN = "every fold in turn is the test fold, see --folds, --repeats and --seed"
_ELSEWHERE = {
    **dict.fromkeys(("file", "table"), "name the bags by --data"),
    **dict.fromkeys(("mean", "std"), "each fold is standardised by its own training bags"),
    **dict.fromkeys(("fold", "repeat", "num_folds", "test_fraction", "split_seed", "seed"), _OWN),
    "eval_batch_size": "test bags are predicted in batches that do not change the scores",
}


class Choice(NamedTuple):
    """Which weights of a fold predict its test bags.

    Attributes:
        select: ``last``, or ``best`` by a metric of validation bags.
        val_fraction: share of the training bags to validate on, for ``best``.
    """

    select: Literal["last", "best"] = "last"
    val_fraction: float = 0.15


LAST = Choice()


def read_recipe(config: Path | Recipe, choice: Choice = LAST) -> FoldRecipe:
    """Read the settings of a `train.py` recipe that cross-validation uses.

    These are the model with optimizer and schedule; ``batch_size``, ``standardise``, ``clip``,
    ``val_fraction``, ``sampler``, ``class_weights``, ``token_budget``, ``max_instances``,
    ``chunk_instances`` and ``num_workers`` of the data; ``max_steps``, ``max_epochs``,
    ``gradient_clip_val`` and ``accumulate_grad_batches`` of the trainer; to select the best
    weights also what `read_selection` reads.

    Args:
        config: the recipe.
        choice: which weights are taken.

    Raises:
        ValueError: the file is missing, is not a recipe of a `MILModule` with a number of steps or
            epochs, or sets an option of the trainer that cross-validation does not support.
    """
    config = Recipe.of(config)
    model, trainer = config.section("model"), config.section("trainer")
    check_effects(config, choice)
    settings = data_settings(config)
    limits = _limits(config, trainer)
    planned = (
        *("batch_size", "sampler", "class_weights"),
        *("token_budget", "max_instances", "chunk_instances"),
    )
    plan = {name: settings[name] for name in planned if name in settings}
    if plan.get("class_weights") is not None:
        plan["class_weights"] = tuple(plan["class_weights"])
    first, selection = _first_stage(config, model), None
    if choice.select == "best":
        kind = class_of(model)
        if kind is None or not issubclass(kind, MILModule):
            kind = MILModule  # the error is reported when the module is built
        selection = read_selection(config, kind, choice.val_fraction)
    return FoldRecipe(
        build=module_builder(model),
        first=None if first is None else module_builder(first),
        plan=BatchPlan(**plan),
        clip_norm=trainer.get("gradient_clip_val") or None,  # the Trainer does not clip at 0 either
        accumulate=trainer.get("accumulate_grad_batches", 1),
        standardise=settings.get("standardise", True),
        clip=settings.get("clip"),
        val_fraction=settings.get("val_fraction", 0.2),
        max_steps=limits["max_steps"],
        max_epochs=limits["max_epochs"],
        selection=selection,
        num_workers=settings.get("num_workers", 0),
    )


@functools.cache  # reading takes as long as a short training; every worker reads it once
def read_once(config: Recipe, choice: Choice) -> FoldRecipe:
    """Return what `read_recipe` reads, without reading it again."""
    return read_recipe(config, choice)


def _limits(config: Recipe, trainer: dict[str, Any]) -> dict[str, int | None]:
    """Return ``max_steps`` and ``max_epochs``; check all values of the trainer."""
    limits = {name: trainer.get(name) for name in ("max_steps", "max_epochs")}
    limits = {name: None if limit in (None, -1) else limit for name, limit in limits.items()}
    followed = {*limits, "gradient_clip_val", "accumulate_grad_batches"}
    unknown = sorted(set(trainer) - _OUTPUT - _VALIDATION - _DEVICES - followed)
    if unknown or not any(limits.values()):
        raise ValueError(
            f"{config}: cross-validation trains for trainer.max_steps or max_epochs and does not "
            f"follow {f'{unknown}; leave them out' if unknown else 'a recipe without them'}"
        )
    accumulate = trainer.get("accumulate_grad_batches", 1)
    counts = limits | {"accumulate_grad_batches": accumulate}
    for name, limit in counts.items():
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ValueError(f"{config}: trainer.{name} must be a positive number, got {limit!r}")
    clip_norm = trainer.get("gradient_clip_val")
    if clip_norm is not None and not (isinstance(clip_norm, int | float) and clip_norm >= 0):
        raise ValueError(
            f"{config}: trainer.gradient_clip_val must be a number >= 0, got {clip_norm!r}"
        )
    return limits


def check_effects(config: Recipe, choice: Choice) -> None:
    """Reject what would have no effect on the folds without a word.

    Raises:
        ValueError: a section, a callback or a flag has no effect.
    """
    for name, remedy in _SECTIONS.items():
        if any(content.get(name) for content in config.contents()):
            raise ValueError(f"{config}: {name} has no effect in cross-validation; {remedy}")
    last = choice.select == "last"
    for path, value in config.values():
        flag, name = f"--{'.'.join(path)}", path[1]
        if path[0] == "trainer" and name in _OUTPUT:
            raise ValueError(f"{flag} has no effect in cross-validation; leave it out")
        if path[0] == "checkpoint" and name not in ("monitor", "mode"):
            raise ValueError(
                f"{flag} has no effect in cross-validation, which follows checkpoint.monitor and "
                "mode; see --save-checkpoints"
            )
        selects = path[0] in ("checkpoint", "early_stopping")
        selects = selects or (path[0] == "trainer" and name in _VALIDATION and value is not None)
        if last and selects:
            raise ValueError(f"{flag} has no effect with --select last; give --select best")
    stopping = early_stopping(config)
    if last and stopping is not None:
        off = "--trainer.callbacks null" if stopping == "trainer.callbacks" else "leave it out"
        raise ValueError(
            f"{config}: {stopping} needs validation bags and a metric, but with --select last "
            "every fold trains for the same number of steps and its last weights count; give "
            f"--select best, or {off} to train to the end"
        )
    list(callbacks_of(config))  # refuses other callbacks


def read_devices(config: Recipe, *, slides: bool) -> FoldDevices:
    """Read on which devices folds are trained.

    Args:
        config: the recipe.
        slides: whether the bags are slides; then an accelerator is used where there is one, as by
            `train.py`. Small bags are trained on the processor unless the recipe names another
            (A410).

    Raises:
        ValueError: the device does not exist here.
    """
    trainer = config.section("trainer")
    accelerator = trainer.get("accelerator") or ("auto" if slides else "cpu")
    return fold_devices(accelerator, trainer.get("devices", "auto"))


def check_data_flags(config: Recipe, unused: Sequence[str], reason: str) -> None:
    """Reject flags of the data that have no effect on bags of this kind.

    Args:
        config: the recipe.
        unused: arguments of the data without an effect.
        reason: why, for the message.

    Raises:
        ValueError: such a flag is given.
    """
    for path, _ in config.values():
        if path[0] == "data" and path[-1] in unused:
            raise ValueError(f"--{'.'.join(path)} has no effect: {reason}; leave it out")


def _first_stage(config: Recipe, model: dict[str, Any]) -> dict[str, Any] | None:
    """Return the ``model`` section of the first of two stages, or None if there is none."""
    staged = staged_class(model)
    if staged is None:
        return None
    argument = staged.first_stage_argument
    if (model.get("init_args") or {}).get(argument) is not None:
        raise ValueError(
            f"{config}: {argument} may have seen the test bags of a fold; leave it out, and each "
            "fold trains its own"
        )
    return staged.first_stage(model)


def data_settings(config: Path | Recipe) -> dict[str, Any]:
    """Return the checked data arguments of a recipe with defaults, without the data file.

    Raises:
        ValueError: an argument is unknown or of the wrong type, or a flag sets an argument that
            cross-validation sets itself.
    """
    from jsonargparse import ArgumentError

    config = Recipe.of(config)
    for path, _ in config.values():
        if path[0] == "data" and path[-1] in _ELSEWHERE:
            flag = f"--{'.'.join(path)}"
            raise ValueError(f"{flag} has no effect in cross-validation; {_ELSEWHERE[path[-1]]}")
    data, files = config.section("data"), {"file", "table"}
    given = {k: v for k, v in (data.get("init_args") or {}).items() if k not in files}
    try:
        parsed, _ = checked_section(MILDataModule, "data", {**data, "init_args": given}, files)
    except ArgumentError as error:
        raise ValueError(f"{config}: {user_message(error)}") from None
    settings: dict[str, Any] = plain(parsed.init_args)
    return settings
