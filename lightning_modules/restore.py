"""Rebuilding a trained module and its preprocessing from a checkpoint alone."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_modules.base import FORMAT, TrainedModule
from lightning_modules.errors import user_message
from lightning_modules.weights import read_file

# Facts of a datamodule -> the argument of the model (below ``model.``) that they fill.
LINKS = {
    "num_classes": "init_args.model.init_args.num_classes",
    "in_features": "init_args.model.init_args.in_features",
    "task": "init_args.model.init_args.task",
}


PICTURES = "datamodules.PictureFolderDataModule"
BAGS = "datamodules.TabularBagsDataModule"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a checkpoint holds.

    Attributes:
        module: the LightningModule with its weights, in eval mode.
        data: the datamodule's configuration, ``class_path`` and ``init_args``.
        facts: category map, class names, threshold, fitted preprocessing.
        links: facts of the training data that the model was built for.
        precision: the trainer's precision.
    """

    module: TrainedModule
    data: dict[str, Any]
    facts: dict[str, Any]
    links: dict[str, Any]
    precision: str


def plain(config: Any) -> Any:
    """Turn a parsed configuration into plain containers and scalars."""
    if hasattr(config, "as_dict"):
        config = config.as_dict()
    if isinstance(config, Mapping):
        return {str(k): plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [plain(v) for v in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    return str(config)


_SOURCES: dict[str, Any] = {"init_from": None, "weights": None, "pretrained": False}


def without_sources(config: Any) -> Any:
    """Return a model's configuration without the files it once started from.

    A checkpoint brings its own weights, so those files may be gone.
    """
    if isinstance(config, Mapping):
        return {k: _SOURCES.get(k, without_sources(v)) for k, v in config.items()}
    return [without_sources(v) for v in config] if isinstance(config, list) else config


def place(config: dict[str, Any], target: str, value: Any) -> None:
    """Set ``a.b.c`` in nested dictionaries; the parents must be there."""
    *parents, last = target.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value


def read_record(path: Path) -> dict[str, Any]:
    """Read the ``segmil`` record of a checkpoint without building anything.

    Raises:
        ValueError: the file is broken, carries code, or was not written by `train.py`.
    """
    return _record(path, read_file(path))


def _record(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    record = content.get("segmil")
    if not isinstance(record, dict) or not isinstance(record.get("blueprint"), dict):
        raise ValueError(
            f"{path}: not a segmil checkpoint (no configuration inside). Use a file from "
            "runs/*/checkpoints, or model.init_args.init_from to start from bare weights."
        )
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{path}: checkpoint format {record.get('format')}, this code reads {FORMAT}"
        )
    return record


def restore(path: str | Path) -> Restored:
    """Rebuild the module of a checkpoint with its weights; needs no configuration file.

    Raises:
        ValueError: the file is not a segmil checkpoint, or its weights don't fit its own model.
    """
    from jsonargparse import ArgumentParser

    path = Path(path)
    content = read_file(path)
    record = _record(path, content)
    model = without_sources(record["blueprint"]["model"])
    for fact, value in record["blueprint"]["links"].items():
        place(model, LINKS[fact], value)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model")
    module = parser.instantiate_classes(parser.parse_object({"model": model})).model
    try:
        module.load_state_dict(content["state_dict"], strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path}: weights don't fit the model it describes ({error})") from None
    module.restore_facts(record["facts"])
    module.blueprint = record["blueprint"]
    blueprint = record["blueprint"]
    return Restored(
        module.eval(), blueprint["data"], record["facts"], blueprint["links"], record["precision"]
    )


def data_at(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a datamodule that applies a checkpoint to other data.

    Args:
        path: a picture or a folder of pictures for a segmentation checkpoint, an npz file of bags
            for a MIL checkpoint.
        record: the checkpoint's ``segmil`` record.
    """
    facts = record["facts"]
    arguments = dict(facts["preprocessing"])
    if "category_map" in facts:
        arguments |= {"root": str(path), "category_map": facts["category_map"]}
        return {"class_path": PICTURES, "init_args": arguments}
    return {"class_path": BAGS, "init_args": arguments | {"file": str(path)}}


def read_data_section(recipe: Path) -> dict[str, Any]:
    """Return the ``data`` of a recipe file.

    Raises:
        ValueError: the file is missing, is no YAML, or has no data.
    """
    import yaml

    if not recipe.is_file():
        raise ValueError(f"{recipe}: no such recipe")
    try:
        content = yaml.safe_load(recipe.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{recipe}: is no YAML file ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        raise ValueError(f"{recipe}: the recipe has no `data`")
    data: dict[str, Any] = content["data"]
    return data


def instantiate_data(
    data: Mapping[str, Any], preprocessing: Mapping[str, Any]
) -> pl.LightningDataModule:
    """Build a datamodule that prepares samples as a checkpoint's did.

    Args:
        data: ``class_path`` and ``init_args``.
        preprocessing: arguments that win over those of ``data``, as far as the class has them.

    Raises:
        ValueError: an argument is wrong.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    section = copy.deepcopy(dict(data))
    module, _, name = str(section["class_path"]).rpartition(".")
    accepted = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    shared = {k: v for k, v in preprocessing.items() if k in accepted or k == "eval_batch_size"}
    section["init_args"] = {**section.get("init_args", {}), **shared}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    try:
        config = parser.parse_object({"data": section})
    except ArgumentError as error:
        raise ValueError(user_message(error)) from None
    built: pl.LightningDataModule = parser.instantiate_classes(config).data
    return built
