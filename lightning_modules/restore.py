"""Rebuilding a trained module and its preprocessing from a checkpoint alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_modules.base import FORMAT, TrainedModule
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
        precision: the trainer's precision.
    """

    module: TrainedModule
    data: dict[str, Any]
    facts: dict[str, Any]
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
    model = copy.deepcopy(record["blueprint"]["model"])
    for fact, value in record["blueprint"]["links"].items():
        place(model, LINKS[fact], value)
    model["init_args"]["init_from"] = None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model")
    module = parser.instantiate_classes(parser.parse_object({"model": model})).model
    try:
        module.load_state_dict(content["state_dict"], strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path}: weights don't fit the model it describes ({error})") from None
    module.restore_facts(record["facts"])
    module.blueprint = record["blueprint"]
    return Restored(
        module.eval(), record["blueprint"]["data"], record["facts"], record["precision"]
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


def instantiate_data(recipe: Path) -> pl.LightningDataModule:
    """Build the datamodule of a recipe file.

    Raises:
        ValueError: the recipe has no data, or an argument is wrong.
    """
    import yaml
    from jsonargparse import ArgumentError, ArgumentParser

    content = yaml.safe_load(recipe.read_text())
    if not isinstance(content, dict) or "data" not in content:
        raise ValueError(f"{recipe}: the recipe has no `data`")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    try:
        config = parser.parse_object({"data": content["data"]})
    except ArgumentError as error:
        raise ValueError(f"{recipe}: {error}") from None
    data: pl.LightningDataModule = parser.instantiate_classes(config).data
    return data
