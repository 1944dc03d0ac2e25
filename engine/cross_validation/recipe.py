"""Reading of the parts of a recipe that cross-validation uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.mil.base import MILDataModule
from datamodules.mil.samplers import BatchPlan
from engine.checkpoints.stages import staged_class
from engine.config.errors import user_message
from engine.config.recipe import Recipe
from engine.config.sections import checked_section, module_builder, plain
from engine.cross_validation.folds import FoldRecipe

# Options of the trainer that do not change the training of a fold.
_NEUTRAL = {
    "accelerator",
    "callbacks",
    "check_val_every_n_epoch",
    "devices",
    "enable_checkpointing",
    "enable_progress_bar",
    "log_every_n_steps",
    "num_sanity_val_steps",
    "val_check_interval",
}


# Arguments of the data that cross-validation sets itself. They are allowed in a recipe.
_OWN = "every fold in turn is the test fold, see --folds, --repeats and --seed"
_ELSEWHERE = {
    **dict.fromkeys(("file", "table"), "name the bags by --data"),
    **dict.fromkeys(("mean", "std"), "each fold is standardised by its own training bags"),
    **dict.fromkeys(("fold", "repeat", "num_folds", "test_fraction", "split_seed", "seed"), _OWN),
}


def read_recipe(config: Path | Recipe) -> FoldRecipe:
    """Read the settings of a `train.py` recipe that cross-validation uses.

    These are the model with optimizer and schedule; ``batch_size``, ``standardise``, ``clip``,
    ``val_fraction``, ``sampler``, ``class_weights``, ``token_budget``, ``max_instances`` and
    ``chunk_instances`` of the data; ``max_steps``, ``max_epochs``, ``gradient_clip_val`` and
    ``accumulate_grad_batches`` of the trainer.

    Raises:
        ValueError: the file is missing, is not a recipe of a `MILModule` with a number of steps or
            epochs, or sets an option of the trainer that cross-validation does not support.
    """
    config = Recipe.of(config)
    model, trainer = config.section("model"), config.section("trainer")
    if any(content.get("early_stopping") for content in config.contents()):
        raise ValueError(
            f"{config}: early_stopping needs validation bags and a metric, but cross-validation "
            "trains every fold for the same number of steps; leave it out"
        )
    settings = data_settings(config)
    limits = {name: trainer.get(name) for name in ("max_steps", "max_epochs")}
    limits = {name: None if limit in (None, -1) else limit for name, limit in limits.items()}
    followed = {*limits, "gradient_clip_val", "accumulate_grad_batches"}
    unknown = sorted(set(trainer) - _NEUTRAL - followed)
    if unknown or not any(limits.values()):
        raise ValueError(
            f"{config}: cross-validation trains for trainer.max_steps or max_epochs and does not "
            f"follow {unknown or 'a recipe without them'}"
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
    planned = (
        *("batch_size", "sampler", "class_weights"),
        *("token_budget", "max_instances", "chunk_instances"),
    )
    plan = {name: settings[name] for name in planned if name in settings}
    if plan.get("class_weights") is not None:
        plan["class_weights"] = tuple(plan["class_weights"])
    first = _first_stage(config, model)
    return FoldRecipe(
        build=module_builder(model),
        first=None if first is None else module_builder(first),
        plan=BatchPlan(**plan),
        clip_norm=clip_norm or None,  # the Trainer does not clip at 0 either
        accumulate=accumulate,
        standardise=settings.get("standardise", True),
        clip=settings.get("clip"),
        val_fraction=settings.get("val_fraction", 0.2),
        max_steps=limits["max_steps"],
        max_epochs=limits["max_epochs"],
    )


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
