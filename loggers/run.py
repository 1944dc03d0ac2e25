"""The run folder and its loggers: CSV always, Weights & Biases when asked for."""

from __future__ import annotations

import os
from pathlib import Path

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn

from loggers.csv_logger import MetricsTable
from loggers.wandb_logger import SafeWandbLogger, WandbOptions

_SET_HERE: set[str] = set()  # W&B variables that follow the run, because the user set none


def next_run_dir(runs_dir: Path, name: str) -> Path:
    """Return ``runs_dir/name/version_k`` with the smallest k that is larger than all present.

    Processes that the first one of a job launches get its answer through the environment. Where
    somebody else launches them (torchrun, Slurm) only the first one's answer counts: the others
    create nothing, and ``trainer.log_dir``, the one way to the folder, is broadcast.
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
    """Tell whether this process writes the files of the job, as far as the environment knows."""
    first: bool = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    return first and os.environ.get("NODE_RANK", "0") == "0"


def forget_run_dir() -> None:
    """End the run: the next training of this process gets a folder of its own."""
    os.environ.pop("SEGMIL_RUN_DIR", None)


def build_loggers(
    run_dir: Path, wandb_options: WandbOptions | None, resume_step: int | None = None
) -> list[Logger]:
    """Return the loggers of a run; the first one's folder is the run folder.

    Args:
        run_dir: folder of the run.
        wandb_options: what to do with Weights & Biases, None for nothing.
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
        loggers.append(SafeWandbLogger(run_dir, wandb_options))
    except ModuleNotFoundError:
        rank_zero_warn("W&B is not installed (`pip install wandb`); the run goes on without it")
    return loggers


def stay_inside(run_dir: Path) -> None:
    """Have W&B stage artifacts and caches in the run's folder, not in the user's home.

    What the user has set stays.
    """
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        if variable not in os.environ or variable in _SET_HERE:
            os.environ[variable] = str((run_dir / "wandb").resolve())
            _SET_HERE.add(variable)


def finish_loggers(loggers: list[Logger]) -> None:
    """End this process's W&B run, if there is one, so that the next training starts its own."""
    for logger in loggers:
        if isinstance(logger, SafeWandbLogger):
            logger.finish()
