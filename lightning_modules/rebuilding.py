"""Rebuilding of a trained module from the configuration, weights and facts in its checkpoint."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from formats.weights.files import read_file

FORMAT = 2  # of the "segmil" record in a checkpoint

# Attributes of a datamodule -> the argument of the model (below ``model.``) that they set.
LINKS = {
    "num_classes": "init_args.model.init_args.num_classes",
    "in_channels": "init_args.model.init_args.in_channels",
    "in_features": "init_args.model.init_args.in_features",
    "task": "init_args.model.init_args.task",
}


class SelfContainedModule(pl.LightningModule):
    """A LightningModule whose checkpoints hold all that is needed to build it again.

    Attributes:
        blueprint: resolved configuration of model and data, set by the command line.
    """

    blueprint: dict[str, Any] | None = None

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str | None = None,
        *,
        strict: bool = True,
        weights_only: bool | None = None,
        **options: Any,
    ) -> Self:
        """Return the trained module of a checkpoint, in eval mode (A450).

        Configuration, weights and facts (category map, threshold, ...) are those of the checkpoint.
        Nothing in the file is executed.

        Args:
            checkpoint_path: file written by `train.py`.
            map_location: the module's device; None for the processor.
            strict: always True: all weights must fit.
            weights_only: ignored; pickled code is never executed.
            options: none; the arguments of the module are in the checkpoint.

        Raises:
            ValueError: the file is missing, broken or not such a checkpoint, it holds another
                class of module, or an option is given.
        """
        del weights_only
        given = [*(["strict=False"] if not strict else []), *options]
        if given:
            raise ValueError(
                f"load_from_checkpoint takes no {', '.join(given)}: the checkpoint has the whole "
                "configuration; another one can start from its weights by init_from"
            )
        module, _ = rebuilt(Path(checkpoint_path), cls)
        return module.to(map_location or "cpu")

    def facts(self) -> dict[str, Any]:
        """Return plain values that a rebuilt module needs besides its weights."""
        return {}

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Restore the values that ``facts`` of the saved module returned."""


M = TypeVar("M", bound=SelfContainedModule)


def rebuilt(
    path: Path, kind: type[M], reason: Callable[[BaseException], str] = str
) -> tuple[M, dict[str, Any]]:
    """Return the module of a checkpoint with its weights, in eval mode, and the record in it.

    Nothing in the file is executed: it holds tensors and plain containers.

    Args:
        path: file written by `train.py`.
        kind: class of the module, or a base class of it.
        reason: turns the error of a configuration that cannot be built into a message.

    Raises:
        ValueError: the file is not a segmil checkpoint, holds a module of another class, or its
            weights don't fit its own model.
    """
    content = read_file(path)
    record = checked_record(path, content)
    module = _build(path, record, reason)
    if not isinstance(module, kind):
        found = type(module).__name__
        raise ValueError(
            f"{path}: holds a {found}, which is no {kind.__name__}; use "
            f"{found}.load_from_checkpoint"
        )
    _load_weights(path, module, content.get("state_dict"))
    _restore_facts(path, module, record)
    module.blueprint = record["blueprint"]
    return module.eval(), record


def checked_record(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``segmil`` record in the content of a checkpoint.

    Raises:
        ValueError: there is none, or it is damaged or of another format.
    """
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


def _build(
    path: Path, record: Mapping[str, Any], reason: Callable[[BaseException], str]
) -> pl.LightningModule:
    """Build the module that a checkpoint's configuration describes, with initial weights."""
    from jsonargparse import ArgumentError, ArgumentParser

    model = without_sources(record["blueprint"]["model"])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model")
    try:
        for fact, value in record["blueprint"]["links"].items():
            place(model, LINKS[fact], value)
        module: pl.LightningModule = parser.instantiate_classes(
            parser.parse_object({"model": model})
        ).model
    except (ArgumentError, ValueError, KeyError, TypeError) as error:
        what = f"its model cannot be built ({reason(error)})"
        raise ValueError(f"{path}: {what}; use the version of segmil it was written by") from None
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


def _restore_facts(path: Path, module: SelfContainedModule, record: Mapping[str, Any]) -> None:
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


def without_sources(config: Any) -> Any:
    """Return a model's configuration without the files of its initial weights.

    A checkpoint contains its own weights, so those files may no longer exist. Every class lists
    the arguments that name such files in ``starts_from``.
    """
    if isinstance(config, list):
        return [without_sources(value) for value in config]
    if not isinstance(config, Mapping):
        return config
    clean = {key: without_sources(value) for key, value in config.items()}
    if isinstance(given := clean.get("init_args"), dict):
        sources = getattr(class_of(config), "starts_from", {})
        given |= {key: value for key, value in sources.items() if key in given}
    return clean


def class_of(section: Mapping[str, Any]) -> type | None:
    """Return the class that a section names by ``class_path``, or None if it does not exist.

    Errors are reported when the section is instantiated.
    """
    module, _, name = str(section.get("class_path")).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        return None
    return found if isinstance(found, type) else None


def place(config: dict[str, Any], target: str, value: Any) -> None:
    """Set ``a.b.c`` in nested dictionaries; the parents must exist."""
    *parents, last = target.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value
