"""The run folder and its loggers: CSV always, Weights & Biases when asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger

_SET_HERE: set[str] = set()  # W&B variables that follow the run, because the user set none


def next_run_dir(runs_dir: Path, name: str) -> Path:
    """Return ``runs_dir/name/version_k`` with the smallest k that is larger than all present.

    Processes that the first one of a job launches get its answer through the environment.
    """
    known = os.environ.get("SEGMIL_RUN_DIR")
    if known and "LOCAL_RANK" in os.environ:
        return Path(known)
    parent = runs_dir / name
    used = [
        int(p.name.removeprefix("version_"))
        for p in parent.glob("version_*")
        if p.name.removeprefix("version_").isdigit()
    ]
    run_dir = parent / f"version_{max(used, default=-1) + 1}"
    os.environ["SEGMIL_RUN_DIR"] = str(run_dir)
    return run_dir


def forget_run_dir() -> None:
    """End the run: the next training of this process gets a folder of its own."""
    os.environ.pop("SEGMIL_RUN_DIR", None)


def build_loggers(run_dir: Path, wandb_options: Any | None) -> list[Logger]:
    """Return the loggers of a run; the first one's folder is the run folder.

    Args:
        run_dir: folder of the run.
        wandb_options: ``project``, ``mode``, ``entity``, ``group`` and ``tags``, or None.
    """
    table = CSVLogger(str(run_dir.parent), name="", version=run_dir.name)
    loggers: list[Logger] = [table]
    if wandb_options is None:
        return loggers
    from pytorch_lightning.loggers import WandbLogger

    _ = table.experiment  # creates the run folder before W&B puts its own folder inside
    run_dir.mkdir(parents=True, exist_ok=True)
    # W&B stages artifacts and caches under the home folder unless told otherwise.
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        if variable not in os.environ or variable in _SET_HERE:
            os.environ[variable] = str(run_dir / "wandb")
            _SET_HERE.add(variable)
    loggers.append(
        WandbLogger(
            name=f"{run_dir.parent.name}/{run_dir.name}",
            save_dir=str(run_dir),
            project=wandb_options.project,
            offline=wandb_options.mode == "offline",
            entity=wandb_options.entity,
            group=wandb_options.group,
            tags=list(wandb_options.tags),
        )
    )
    return loggers


def finish_loggers(loggers: list[Logger]) -> None:
    """End this process's W&B run, if there is one, so that the next training starts its own."""
    for logger in loggers[1:]:
        run = getattr(logger, "experiment", None)
        if run is not None and os.environ.get("LOCAL_RANK", "0") == "0":
            run.finish()
