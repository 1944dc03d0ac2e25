"""Data sections that apply a checkpoint to the data of a path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.readers import arguments_of, path_readers
from lightning_modules.rebuilding import class_of


def data_at(path: Path, record: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Return the configuration of a datamodule that applies a checkpoint to other data.

    Every datamodule declares which paths it reads (`datamodules.readers.PathReader`).

    Args:
        path: a file or a folder, such as a folder of images for a segmentation checkpoint, or a CSV
            of slides for a MIL checkpoint.
        record: the checkpoint's ``segmil`` record.
        folder: folder of the files that ``path`` lists, or None.

    Raises:
        ValueError: no datamodule reads the path for this checkpoint, or the datamodule cannot
            reproduce the checkpoint's preprocessing.
    """
    for reader in path_readers():
        section = reader.section_for(path, record, folder)
        if section is not None:
            return section
    raise ValueError(f"{path}: no datamodule reads it for this checkpoint")


def own_data(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section of the data that a checkpoint was trained on, with its categories.

    Args:
        record: the checkpoint's ``segmil`` record.
    """
    data, facts = record["blueprint"]["data"], record["facts"]
    labels = {k: v for k, v in facts.items() if k == "category_map"}
    labels |= {k: v for k, v in facts.get("categories", {}).items() if k == "known"}
    taken = {k: v for k, v in labels.items() if takes(data, k)}
    return {**data, "init_args": {**data["init_args"], **taken}}


def takes(section: Mapping[str, Any], argument: str) -> bool:
    """Return whether the class of a section exists and has an argument."""
    named = class_of(section)
    return named is not None and argument in arguments_of(named)
