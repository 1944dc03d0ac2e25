"""Logging of a cross-validation to W&B, as a group with one run per fold."""

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
    """Log each fold in a new folder below `runs/`, and return a message about the result.

    Args:
        options: project and mode.
        name: name of the recipe; the folder is ``runs/<name>_cv/version_<k>``.
        folds: see `log_folds`.
        metrics: see `log_folds`.
        data: the file of the bags.
        facts: further configuration that the folds have in common.
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

    W&B then shows mean and spread over the group. A failure of W&B is reported once and ends the
    logging.

    Args:
        folder: folder in which each fold gets a subfolder.
        options: project and mode; without a group the name of the folder is used as the group.
        folds: (repeat, fold) of each fold.
        metrics: values by name, one value per fold.
        config: configuration that all folds have in common.

    Returns:
        The number of logged folds.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # no output for each fold
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
