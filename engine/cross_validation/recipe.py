"""What cross-validation follows of a recipe: files and values laid over one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from datamodules.mil.base import MILDataModule
from datamodules.mil.samplers import BatchPlan
from engine.checkpoints.stages import staged_class
from engine.config.errors import user_message
from engine.config.files import check_config_file
from engine.config.sections import module_builder, plain
from engine.cross_validation.folds import FoldRecipe

# Options of the trainer that don't change what a fold learns.
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


_SECTIONS = ("model", "data", "trainer")
# Arguments of the data that choose what cross-validation chooses by itself. A recipe may have them.
_OWN = "every fold in turn is the test fold, see --folds, --repeats and --seed"
_ELSEWHERE = {
    **dict.fromkeys(("file", "table"), "name the bags by --data"),
    **dict.fromkeys(("mean", "std"), "each fold is standardised by its own training bags"),
    **dict.fromkeys(("fold", "repeat", "num_folds", "test_fraction", "split_seed", "seed"), _OWN),
}


class RecipeFiles(NamedTuple):
    """A recipe, what is laid over it, and single values.

    Attributes:
        files: the recipe, then overlays; later ones win, dictionaries merge, lists are replaced.
        overrides: words such as ``--model.init_args.optimizer.init_args.lr 1e-4``; they win over
            the files. ``init_args`` may be left out.
    """

    files: tuple[Path, ...]
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the names of the files, for messages."""
        return " + ".join(map(str, self.files))

    @property
    def words(self) -> str:
        """Files and overrides as they were given."""
        return " ".join(map(str, [*self.files, *self.overrides]))

    @classmethod
    def of(cls, config: Path | RecipeFiles) -> RecipeFiles:
        """Return a single file as such a recipe."""
        return config if isinstance(config, RecipeFiles) else cls((Path(config),))


def read_recipe(config: Path | RecipeFiles) -> FoldRecipe:
    """Read what cross-validation follows of a recipe of `train.py`.

    That is the model with optimizer and schedule; ``batch_size``, ``standardise``, ``clip``,
    ``val_fraction``, ``sampler``, ``class_weights``, ``token_budget`` and ``max_instances`` of the
    data; ``max_steps``, ``max_epochs``, ``gradient_clip_val``, ``accumulate_grad_batches`` of the
    trainer.

    Raises:
        ValueError: the file is missing, is no recipe of a `MILModule` with a number of steps or
            epochs, or asks the trainer for something that cross-validation does not do.
    """
    config = RecipeFiles.of(config)
    sections = {name: recipe_section(config, name) for name in _SECTIONS}
    trainer, settings = sections["trainer"], data_settings(config)
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
            f"{config}: trainer.gradient_clip_val must be a number from 0, got {clip_norm!r}"
        )
    planned = ("batch_size", "sampler", "class_weights", "token_budget", "max_instances")
    plan = {name: settings[name] for name in planned if name in settings}
    if plan.get("class_weights") is not None:
        plan["class_weights"] = tuple(plan["class_weights"])
    first = _first_stage(config, sections["model"])
    return FoldRecipe(
        build=module_builder(sections["model"]),
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


def _first_stage(config: RecipeFiles, model: dict[str, Any]) -> dict[str, Any] | None:
    """Return the model of the first of two stages, None where there is none."""
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


def data_settings(config: Path | RecipeFiles) -> dict[str, Any]:
    """Return the checked arguments of a recipe's data, defaults included, without its file.

    Raises:
        ValueError: an argument is unknown or of the wrong type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    data, files = recipe_section(config, "data"), {"file", "table"}
    given = {k: v for k, v in (data.get("init_args") or {}).items() if k not in files}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MILDataModule, "data", skip=files, required=True)
    try:
        parsed = parser.parse_object({"data": {**data, "init_args": given}})
    except ArgumentError as error:
        raise ValueError(f"{config}: {user_message(error)}") from None
    settings: dict[str, Any] = plain(parsed.data.init_args)
    return settings


def recipe_section(config: Path | RecipeFiles, name: str) -> dict[str, Any]:
    """Return a section of a recipe, which may be the name of a file beside it.

    Raises:
        ValueError: a file is missing or wrong, the recipe has no such section, or what is laid over
            it has another class or is no flag of it.
    """
    config = RecipeFiles.of(config)
    result: dict[str, Any] = {}
    for file in config.files:
        section = check_config_file(file).get(name)
        if isinstance(section, str):
            section = check_config_file(file.parent / section)
        if section is not None and not isinstance(section, dict):
            raise ValueError(f"{file}: the section '{name}' must be a mapping or a file")
        result = _laid_over(result, section or {}, f"{file}: {name}")
    if not result:
        raise ValueError(f"{config}: a recipe needs the section '{name}'")
    for path, value in _overrides(config.overrides):
        if path[0] == name:
            result = _laid_over(result, _nested(result, path[1:], value), f"--{'.'.join(path)}")
    return result


def _laid_over(below: dict[str, Any], above: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Merge two mappings.

    Raises:
        ValueError: they name two classes, whose arguments would mix.
    """
    _check_class(below, above.get("class_path"), where)
    merged = dict(below)
    for key, value in above.items():
        mine = below.get(key)
        if isinstance(mine, dict) and isinstance(value, Mapping):
            merged[key] = _laid_over(mine, value, f"{where}.{key}")
            continue
        if isinstance(mine, dict) and value is not None:  # a class by its name alone
            _check_class(mine, value, f"{where}.{key}")
        merged[key] = value
    return merged


def _check_class(below: Mapping[str, Any], new: Any, where: str) -> None:
    old = below.get("class_path")
    if None not in (old, new) and old != new:
        raise ValueError(f"{where}: {new} cannot be laid over {old}; write a recipe of its own")


def _overrides(words: Sequence[str]) -> list[tuple[list[str], Any]]:
    """Return path and value of each flag.

    Raises:
        ValueError: a word is no flag of a section, or a flag has no value.
    """
    found, rest = [], list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        path = flag.removeprefix("--").split(".")
        if not flag.startswith("--") or len(path) < 2 or path[0] not in _SECTIONS:
            raise ValueError(
                f"unrecognized argument {flag}; recipe flags are --model.NAME VALUE, "
                "--data.NAME VALUE and --trainer.NAME VALUE"
            )
        if not equals and not rest:
            raise ValueError(f"{flag} needs a value")
        if path[0] == "data" and path[-1] in _ELSEWHERE:
            raise ValueError(f"{flag} has no part in a cross-validation; {_ELSEWHERE[path[-1]]}")
        found.append((path, _value(flag, value if equals else rest.pop(0))))
    return found


def _value(flag: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{flag}: {text} is no YAML; mend its brackets or quotes") from None
    if isinstance(value, str):
        try:
            return float(value)  # YAML takes 1e-4 for a word
        except ValueError:
            return value
    return value


def _nested(section: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return the mapping that holds a value at a path, through ``init_args`` where they are."""
    if "class_path" in section and path[0] not in ("class_path", "init_args"):
        path = ["init_args", *path]
    key, rest = path[0], path[1:]
    inner = section.get(key)
    below = inner if isinstance(inner, dict) else {}
    return {key: _nested(below, rest, value) if rest else value}
