"""Restoring of a trained module and its preprocessing from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config.errors import user_message
from formats.weights.files import read_file
from lightning_modules.base import TrainedModule
from lightning_modules.rebuilding import checked_record, rebuilt


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
    return checked_record(path, read_file(path))


def restore(path: str | Path) -> Restored:
    """Rebuild the module of a checkpoint with its weights; needs no configuration file.

    Raises:
        ValueError: the file is not a segmil checkpoint, or its weights don't fit its own model.
    """
    module, record = rebuilt(Path(path), TrainedModule, user_message)
    blueprint = record["blueprint"]
    return Restored(
        module, blueprint["data"], record["facts"], blueprint["links"], record["precision"]
    )
