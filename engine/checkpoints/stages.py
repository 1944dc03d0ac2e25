"""Checkpoints and configurations of two-stage training.

The first stage is an ordinary run in the subfolder ``first_stage`` of the run.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules.rebuilding import class_of
from lightning_modules.staged import StagedModule

FOLDER = "first_stage"


def staged_class(model: Mapping[str, Any]) -> type[StagedModule] | None:
    """Return the class of a ``model`` section if it trains in two stages, else None."""
    found = class_of(model)
    return found if found is not None and issubclass(found, StagedModule) else None


def first_stage_section(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ``model`` section of the first stage, or None if there is none."""
    staged = staged_class(model)
    return None if staged is None else staged.first_stage(model)


def first_stage_config(
    config: Mapping[str, Any], section: Mapping[str, Any], checkpoint: Path | None
) -> dict[str, Any]:
    """Return the configuration of the first stage: the run's configuration with another model.

    If the configuration names a folder for checkpoints, the first stage uses a subfolder of it.

    Args:
        config: the resolved configuration of the run, in plain containers.
        section: ``model`` section of the first stage.
        checkpoint: checkpoint to resume an unfinished first stage from, or None.
    """
    own = {k: copy.deepcopy(v) for k, v in config.items() if k not in ("config", "ckpt_path")}
    resume = {} if checkpoint is None else {"ckpt_path": str(checkpoint)}
    saving = own.get("checkpoint") or {}
    if saving.get("dirpath") is not None:  # otherwise the second stage would overwrite its files
        saving["dirpath"] = str(Path(saving["dirpath"]) / FOLDER)
    staged = staged_class(config["model"])
    if staged is not None:
        own |= staged.first_stage_run(own)
    if staged is not None and staged.first_stage_weights == "last":
        own["early_stopping"] = None  # its scores select no epoch
    return own | {"model": dict(section)} | resume


def interrupted_run(checkpoint: Path) -> Path | None:
    """Return the folder of a two-stage run that was interrupted in its first stage, else None.

    Once the second stage has written a checkpoint, the first stage counts as finished.

    Args:
        checkpoint: a checkpoint of the first stage.
    """
    first = checkpoint.resolve().parent.parent
    run = first.parent
    inside = checkpoint.resolve().parent.name == "checkpoints" and first.name == FOLDER
    begun = (run / "checkpoints" / "last.ckpt").is_file()
    return run if inside and not begun and (run / "config.yaml").is_file() else None


def unfinished_stage(checkpoint: Path) -> Path:
    """Return the first stage's checkpoint of the same name if the given one does not exist.

    This lets one command resume a two-stage run that was interrupted in either stage.
    """
    first = checkpoint.parent.parent / FOLDER / "checkpoints" / checkpoint.name
    return first if first.is_file() and not checkpoint.exists() else checkpoint
