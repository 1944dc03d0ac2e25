"""Rebuilding a trained module and its preprocessing from a checkpoint alone."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_modules.base import FORMAT, TrainedModule
from lightning_modules.config_files import check_config_file
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
SLIDES = "datamodules.FeatureBagsDataModule"


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
_STAGES = ("teacher", "encoder")  # files of a first stage; elsewhere networks have these names


def without_sources(config: Any) -> Any:
    """Return a model's configuration without the files it once started from.

    A checkpoint brings its own weights, so those files may be gone.
    """
    if isinstance(config, Mapping):
        named = {k: None for k, v in config.items() if k in _STAGES and isinstance(v, str)}
        return {k: _SOURCES.get(k, without_sources(v)) for k, v in config.items()} | named
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
    faults = list(_record_faults(record)) or list(_link_faults(record))
    if faults:
        raise ValueError(
            f"{path}: damaged, or written by another version of segmil ({'; '.join(faults)}). Use "
            "another checkpoint, or start from its weights by model.init_args.init_from"
        )
    return record


def _record_faults(record: Mapping[str, Any]) -> Iterator[str]:
    for name in ("blueprint.model", "blueprint.data", "blueprint.links", "facts.preprocessing"):
        section, key = name.split(".")
        if not isinstance((record.get(section) or {}).get(key), dict):
            yield f"it lacks {name}"
    if not isinstance(record.get("precision"), str):
        yield "it lacks precision"


def _link_faults(record: Mapping[str, Any]) -> Iterator[str]:
    blueprint = record["blueprint"]
    for name in sorted(set(blueprint["links"]) - set(LINKS)):
        yield f"its model needs {name} of the data"
    for name in ("model", "data"):
        if not isinstance(blueprint[name].get("class_path"), str):
            yield f"it lacks the class of the {name}"


def restore(path: str | Path) -> Restored:
    """Rebuild the module of a checkpoint with its weights; needs no configuration file.

    Raises:
        ValueError: the file is not a segmil checkpoint, or its weights don't fit its own model.
    """
    path = Path(path)
    content = read_file(path)
    record = _record(path, content)
    module = _build(path, record)
    _load_weights(path, module, content.get("state_dict"))
    _restore_facts(path, module, record)
    module.blueprint = record["blueprint"]
    blueprint = record["blueprint"]
    return Restored(
        module.eval(), blueprint["data"], record["facts"], blueprint["links"], record["precision"]
    )


def _build(path: Path, record: Mapping[str, Any]) -> TrainedModule:
    """Build the module that a checkpoint's configuration describes, with initial weights."""
    from jsonargparse import ArgumentError, ArgumentParser

    model = without_sources(record["blueprint"]["model"])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model")
    try:
        for fact, value in record["blueprint"]["links"].items():
            place(model, LINKS[fact], value)
        module: TrainedModule = parser.instantiate_classes(
            parser.parse_object({"model": model})
        ).model
    except (ArgumentError, ValueError, KeyError, TypeError) as error:
        reason = f"its model cannot be built ({user_message(error)})"
        raise ValueError(f"{path}: {reason}; use the version of segmil it was written by") from None
    return module


def _load_weights(path: Path, module: pl.LightningModule, state: Any) -> None:
    """Take over the weights, all of which must fit and be finite numbers."""
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: has no weights (state_dict of tensors); use another checkpoint")
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path}: weights don't fit the model it describes ({error})") from None
    wrong = [n for n, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} weights are not finite (the first: {wrong[0]}); use an earlier "
            "checkpoint"
        )


def _restore_facts(path: Path, module: TrainedModule, record: Mapping[str, Any]) -> None:
    facts, classes = record["facts"], record["blueprint"]["links"].get("num_classes")
    try:
        module.restore_facts(facts)
        known = len(facts["category_map"]["ids"]) if "category_map" in facts else classes
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: damaged, or written by another version of segmil: its facts are not those of "
            f"a {type(module).__name__} ({error}); use another checkpoint"
        ) from None
    if known != classes:
        raise ValueError(
            f"{path}: damaged: {known} categories for a model of {classes} classes; use another "
            "checkpoint"
        )


def data_at(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a datamodule that applies a checkpoint to other data.

    Args:
        path: a picture or a folder of pictures for a segmentation checkpoint; an npz file of bags
            or a CSV of slides for a MIL checkpoint. Features of slides lie in ``features`` beside
            the CSV, or where the checkpoint's training data had them.
        record: the checkpoint's ``segmil`` record.

    Raises:
        ValueError: see `bags_at`.
    """
    facts = record["facts"]
    arguments = dict(facts["preprocessing"])
    if "category_map" in facts:
        arguments |= {"root": str(path), "category_map": facts["category_map"]}
        return {"class_path": PICTURES, "init_args": arguments}
    return bags_at(path, facts, record["blueprint"]["links"], record["blueprint"]["data"])


# What another datamodule takes over of how a checkpoint's bags were prepared.
_NPZ = ("eval_batch_size", "standardise", "mean", "std", "clip", "class_names", "task")
_CSV = ("eval_batch_size", "bag", "features_key", "coords_key", "class_names", "task")


def bags_at(
    path: Path,
    facts: Mapping[str, Any],
    links: Mapping[str, Any],
    trained_on: Mapping[str, Any],
    features: Path | None = None,
) -> dict[str, Any]:
    """Return the configuration of a datamodule that reads bags as a MIL checkpoint knows them.

    Args:
        path: an npz file of bags or a CSV of slides.
        facts: of the checkpoint, see `Restored`.
        links: likewise.
        trained_on: the configuration of the checkpoint's own data.
        features: folder of the slides' features.

    Raises:
        ValueError: slides cannot be prepared as the checkpoint's bags were.
    """
    known = {"class_names": list(facts["class_names"]) or None, "task": links["task"]}
    arguments = dict(facts["preprocessing"]) | known
    if path.suffix.lower() != ".csv":
        kept = {name: arguments[name] for name in _NPZ if name in arguments}
        return {"class_path": BAGS, "init_args": kept | {"file": str(path)}}
    if "mean" in arguments:
        raise ValueError(
            f"{path}: the checkpoint standardises the features of an npz file, which features of "
            "slides are not; give an npz file"
        )
    kept = {name: arguments[name] for name in _CSV if name in arguments}
    if features is None and not (path.parent / "features").is_dir():
        features = _trained_features(trained_on["init_args"])
    if features is not None:
        kept["features"] = str(features)
    return {"class_path": SLIDES, "init_args": kept | {"table": str(path)}}


def _trained_features(arguments: Mapping[str, Any]) -> Path | None:
    """Return where training had the features of its slides, if that is still there."""
    folder, table = arguments.get("features"), arguments.get("table")
    if folder is None and table is not None:
        folder = Path(table).parent / "features"
    if folder is None or not Path(folder).is_dir():
        return None
    rank_zero_info(f"features are read where the training read them: {folder}")
    return Path(folder)


def read_data_section(recipe: Path) -> dict[str, Any]:
    """Return the ``data`` of a recipe file.

    Raises:
        ValueError: the file is missing, is no YAML, or has no data.
    """
    content = check_config_file(recipe)
    if not isinstance(content.get("data"), dict):
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
