"""Sections of a configuration: conversion to plain values, links and instantiation."""

from __future__ import annotations

import copy
import enum
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from engine.config.errors import user_message
from engine.config.recipe import Recipe
from lightning_modules.mil import MILModule
from lightning_modules.rebuilding import LINKS, class_of, place
from structures import MILTask


def plain(config: Any) -> Any:
    """Turn a parsed configuration into plain containers and scalars.

    ``__path__``, by which the parser remembers that a section came from a file, is left out.
    """
    if hasattr(config, "as_dict"):
        config = config.as_dict()
    if isinstance(config, Mapping):
        return {str(k): plain(v) for k, v in config.items() if k != "__path__"}
    if isinstance(config, list | tuple):
        return [plain(v) for v in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    return str(config)


def drop_sources(config: Any) -> None:
    """Do in place for a parsed configuration what `without_sources` does for a plain one."""
    if isinstance(config, list):
        for value in config:
            drop_sources(value)
    if not hasattr(config, "as_dict"):
        return
    parts = vars(config)
    for value in parts.values():
        drop_sources(value)
    given = parts.get("init_args")
    for key, value in getattr(class_of(parts), "starts_from", {}).items():
        if given is not None and key in given:
            given[key] = value


def plain_texts(config: Any) -> None:
    """Turn texts of an enumeration, which YAML cannot write, into plain ones, in place.

    An example is the default of ``interval`` of Lightning's ``Timer``.

    Args:
        config: a parsed section, or a list of them.
    """
    if isinstance(config, list):
        for value in config:
            plain_texts(value)
    if not hasattr(config, "as_dict"):
        return
    parts = vars(config)
    for key, value in parts.items():
        if isinstance(value, str) and isinstance(value, enum.Enum):
            parts[key] = str(value.value)
        else:
            plain_texts(value)


def read_data_section(recipe: Path) -> dict[str, Any]:
    """Return the ``data`` section of a recipe file.

    Raises:
        ValueError: the file is missing, is not valid YAML, or has no ``data`` section.
    """
    (content,) = Recipe((recipe,)).contents()
    if not isinstance(content.get("data"), dict):
        raise ValueError(f"{recipe}: the recipe has no `data`")
    data: dict[str, Any] = content["data"]
    return data


def checked_section(
    kind: type, name: str, section: Mapping[str, Any], skip: Iterable[str] = ()
) -> tuple[Any, Callable[[], Any]]:
    """Check the arguments of the class that a section names.

    Args:
        kind: base class.
        name: name of the section, for messages.
        section: ``class_path`` and ``init_args``.
        skip: arguments that are set elsewhere.

    Returns:
        The section with its defaults, and a function that instantiates it.

    Raises:
        ArgumentError: an argument is unknown, missing or of the wrong type; `user_message` returns
            a one-line message for it.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, name, skip=set(skip))
    config = parser.parse_object({name: dict(section)})
    return config[name], lambda: parser.instantiate_classes(config)[name]


def instantiate_data(
    data: Mapping[str, Any], preprocessing: Mapping[str, Any]
) -> pl.LightningDataModule:
    """Build a datamodule with the preprocessing of a checkpoint.

    Args:
        data: ``class_path`` and ``init_args``.
        preprocessing: arguments that override those of ``data`` if the class accepts them.

    Raises:
        ValueError: an argument is wrong.
    """
    from jsonargparse import ArgumentError

    section = copy.deepcopy(dict(data))
    module, _, name = str(section["class_path"]).rpartition(".")
    accepted = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    shared = {k: v for k, v in preprocessing.items() if k in accepted or k == "eval_batch_size"}
    section["init_args"] = {**section.get("init_args", {}), **shared}
    try:
        _, build = checked_section(pl.LightningDataModule, "data", section)
    except ArgumentError as error:
        raise ValueError(user_message(error)) from None
    built: pl.LightningDataModule = build()
    return built


def module_builder(model: dict[str, Any]) -> Callable[[int, int, MILTask], MILModule]:
    """Return a function that builds modules from number of classes, feature width and task.

    Args:
        model: the ``model`` section of a recipe.
    """

    @functools.cache  # checking a configuration takes longer than a hundred steps
    def checked(num_classes: int, in_features: int, task: MILTask) -> Callable[[], MILModule]:
        return _checked_model(model, num_classes, in_features, task)[1]

    return lambda num_classes, in_features, task: checked(num_classes, in_features, task)()


def filled_model(
    model: dict[str, Any], num_classes: int, in_features: int, task: MILTask
) -> dict[str, Any]:
    """Return a ``model`` section with the facts of the data and all defaults, as plain values."""
    filled: dict[str, Any] = plain(_checked_model(model, num_classes, in_features, task)[0])
    return filled


def _checked_model(
    model: dict[str, Any], num_classes: int, in_features: int, task: MILTask
) -> tuple[Any, Callable[[], MILModule]]:
    filled = copy.deepcopy(model)
    facts = {"num_classes": num_classes, "in_features": in_features, "task": task}
    for fact, value in facts.items():
        place(filled, LINKS[fact], value)
    return checked_section(MILModule, "model", filled)
