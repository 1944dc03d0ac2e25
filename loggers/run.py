"""Run folder and loggers of a run: always CSV, Weights & Biases on request."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from loggers.csv_logger import MetricsTable
from loggers.wandb_logger import SafeWandbLogger, WandbOptions
from loggers.wandb_names import group_name

_OWN_VARIABLES: set[str] = set()  # W&B variables that the user did not set and that follow the run

_FIRST_FILES = ("config.yaml", "provenance.json", "splits.csv")  # written before the first batch


def next_run_dir(runs_dir: Path, name: str) -> Path:
    """Return ``runs_dir/name/version_k`` with k one above the largest existing number.

    Processes launched by the first process of a job get its result through the environment. If
    they are launched otherwise (torchrun, Slurm), only the result of the first process is used:
    the others create nothing, and ``trainer.log_dir``, the only source of the folder, is broadcast.
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


def is_first_process() -> bool:
    """Return whether this process writes the files of the job, according to the environment."""
    first: bool = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    return first and os.environ.get("NODE_RANK", "0") == "0"


def forget_run_dir() -> None:
    """End the run, so that the next training in this process gets a new folder."""
    os.environ.pop("SEGMIL_RUN_DIR", None)


def remove_empty_run() -> None:
    """Remove the folder of a new run that has ended before it trained or predicted anything.

    Only files that are written before the first batch are removed; folders around it go with it
    where they are empty.
    """
    named = os.environ.get("SEGMIL_RUN_DIR")
    if named is None or not is_first_process() or not Path(named).is_dir():
        return
    run_dir = Path(named)
    if any(path.name not in _FIRST_FILES for path in run_dir.rglob("*") if not path.is_dir()):
        return
    shutil.rmtree(run_dir)
    for folder in (run_dir.parent, run_dir.parent.parent):
        if any(folder.iterdir()):
            break
        folder.rmdir()


def build_loggers(
    run_dir: Path, wandb_options: WandbOptions | None, resume_step: int | None = None
) -> list[Logger]:
    """Return the loggers of a run; the folder of the first logger is the run folder.

    Args:
        run_dir: folder of the run.
        wandb_options: options of Weights & Biases, None to disable it.
        resume_step: steps of the checkpoint from which the run continues in its folder, or None.
    """
    table = MetricsTable(run_dir, resume_step)
    loggers: list[Logger] = [table]
    if wandb_options is None:
        return loggers
    if is_first_process():
        _ = table.experiment  # creates the run folder before W&B puts its own folder inside
        run_dir.mkdir(parents=True, exist_ok=True)
    stay_inside(run_dir)
    try:
        loggers.append(SafeWandbLogger(run_dir, wandb_options, group_name(run_dir)))
    except ModuleNotFoundError:
        rank_zero_warn("W&B is not installed (`pip install wandb`); the run continues without it")
    return loggers


def stay_inside(run_dir: Path) -> None:
    """Make W&B keep artifacts and caches in the run folder instead of the user's home.

    Variables set by the user are kept.
    """
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        if variable not in os.environ or variable in _OWN_VARIABLES:
            os.environ[variable] = str((run_dir / "wandb").resolve())
            _OWN_VARIABLES.add(variable)


def finish_loggers(loggers: list[Logger]) -> None:
    """End the W&B run of this process, if any, so that the next training starts a new one."""
    for logger in loggers:
        if isinstance(logger, SafeWandbLogger):
            logger.finish()
