"""One W&B run a fold of a cross-validation, joined in one group."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.files import file_hash
from loggers.run import forget_run_dir, next_run_dir, stay_inside
from loggers.wandb_logger import SafeWandbLogger, WandbOptions

__all__ = ["WandbOptions", "log_cross_validation", "log_folds"]


def log_cross_validation(
    options: WandbOptions,
    name: str,
    folds: Sequence[tuple[int, int]],
    metrics: Mapping[str, Sequence[float]],
    data: Path,
    facts: Mapping[str, Any],
) -> str:
    """Log each fold below a new folder of `runs/`, and return what was done, in words.

    Args:
        options: project and mode.
        name: of the recipe; the folder is ``runs/<name>_cv/version_<k>``.
        folds: see `log_folds`.
        metrics: likewise.
        data: the file of the bags.
        facts: what else the folds have in common.
    """
    folder = next_run_dir(Path("runs"), f"{name}_cv")
    forget_run_dir()
    config = {**facts, "data": str(data), "data_hash": file_hash(data)}
    try:
        count = log_folds(folder, options, folds, metrics, config)
    except ModuleNotFoundError:
        return "W&B is not installed (`pip install wandb`); nothing was logged"
    return f"logged to W&B ({options.mode}): {count} folds, {folder}"


def log_folds(
    folder: Path,
    options: WandbOptions,
    folds: Sequence[tuple[int, int]],
    metrics: Mapping[str, Sequence[float]],
    config: Mapping[str, Any],
) -> int:
    """Log the test metrics of every fold as a run with ``job_type`` ``repeat<r>-fold<k>``.

    W&B then shows mean and spread over the group. A W&B that fails is reported once and ends it.

    Args:
        folder: each fold gets a folder of its own below.
        options: project and mode; without a group the folder's name is the group.
        folds: (repeat, fold) of each.
        metrics: by name, one value a fold.
        config: what all folds have in common.

    Returns:
        How many folds were logged.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # a fold is a line of a table, not a report
    for number, (repeat, fold) in enumerate(folds):
        name = f"repeat{repeat}-fold{fold}"
        group = options.group or f"{folder.parent.name}/{folder.name}"
        stay_inside(folder / name)
        logger = SafeWandbLogger(
            folder / name, dataclasses.replace(options, group=group, job_type=name)
        )
        logger.log_hyperparams({**config, "repeat": repeat, "fold": fold})
        logger.log_metrics({f"test/{key}": values[number] for key, values in metrics.items()})
        logger.finish()
        if logger.failed:
            return number
    return len(folds)
