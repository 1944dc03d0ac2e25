"""Restoring of a trained module and its preprocessing from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from engine.config.errors import user_message
from engine.config.sections import LINKS, place, without_sources
from formats.weights.files import read_file
from lightning_modules.base import FORMAT, TrainedModule


@dataclass(frozen=True, slots=True)
class Restored:
    """Content of a checkpoint.

    Attributes:
        module: the LightningModule with its weights, in eval mode.
        data: the datamodule's configuration, ``class_path`` and ``init_args``.
        facts: category map, class names, threshold, fitted preprocessing.
        links: properties of the training data that the model was built for.
        precision: the trainer's precision.
    """

    module: TrainedModule
    data: dict[str, Any]
    facts: dict[str, Any]
    links: dict[str, Any]
    precision: str

    @property
    def record(self) -> dict[str, Any]:
        """Record that a datamodule needs to preprocess other data, see `PathReader.section_for`."""
        blueprint = {"data": self.data, "links": self.links}
        return {"facts": self.facts, "blueprint": blueprint}


def read_record(path: Path) -> dict[str, Any]:
    """Read the ``segmil`` record of a checkpoint without building anything.

    Raises:
        ValueError: the file is broken, contains code, or was not written by `train.py`.
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
    """Load the weights and check that all fit and are finite."""
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
            f"{path}: damaged, or written by another version of segmil: its facts do not match "
            f"{type(module).__name__} ({error}); use another checkpoint"
        ) from None
    if known != classes:
        raise ValueError(
            f"{path}: damaged: {known} categories for a model of {classes} classes; use another "
            "checkpoint"
        )
