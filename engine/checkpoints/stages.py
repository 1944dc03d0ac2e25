"""The first of two stages is an ordinary run in ``first_stage`` of the second one's folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config.sections import class_of
from lightning_modules.staged import StagedMILModule

FOLDER = "first_stage"


def staged_class(model: Mapping[str, Any]) -> type[StagedMILModule] | None:
    """Return the class of a ``model`` section if it is one of two stages."""
    found = class_of(model)
    return found if found is not None and issubclass(found, StagedMILModule) else None


def first_stage_section(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ``model`` section of the run that comes first, None where there is none."""
    staged = staged_class(model)
    return None if staged is None else staged.first_stage(model)


def first_stage_config(
    config: Mapping[str, Any], section: Mapping[str, Any], checkpoint: Path | None
) -> dict[str, Any]:
    """Return the configuration of the first stage: that of the whole run with another model.

    Where it names a folder for checkpoints, the first stage has one of its own in there.

    Args:
        config: the resolved configuration of the whole run, in plain containers.
        section: ``model`` of the first stage.
        checkpoint: from which an unfinished first stage goes on, or None.
    """
    own = {k: copy.deepcopy(v) for k, v in config.items() if k not in ("config", "ckpt_path")}
    goes_on = {} if checkpoint is None else {"ckpt_path": str(checkpoint)}
    saving = own.get("checkpoint") or {}
    if saving.get("dirpath") is not None:  # else the second stage would write over its files
        saving["dirpath"] = str(Path(saving["dirpath"]) / FOLDER)
    return own | {"model": dict(section)} | goes_on


def interrupted_run(checkpoint: Path) -> Path | None:
    """Return the folder of a run of two stages that ended inside the first, whose file this is.

    Once the second stage has written a checkpoint, the first is an ordinary finished run.
    """
    first = checkpoint.resolve().parent.parent
    run = first.parent
    inside = checkpoint.resolve().parent.name == "checkpoints" and first.name == FOLDER
    begun = (run / "checkpoints" / "last.ckpt").is_file()
    return run if inside and not begun and (run / "config.yaml").is_file() else None


def unfinished_stage(checkpoint: Path) -> Path:
    """Return the first stage's checkpoint where a run of two stages has no such one yet.

    So one command resumes a run whatever stage it was killed in.
    """
    first = checkpoint.parent.parent / FOLDER / "checkpoints" / checkpoint.name
    return first if first.is_file() and not checkpoint.exists() else checkpoint
