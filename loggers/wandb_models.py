"""Logging of a table of several models to W&B."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loggers.run import forget_run_dir, next_run_dir, stay_inside
from loggers.wandb_charts import records_table
from loggers.wandb_logger import SafeWandbLogger, WandbOptions

__all__ = ["WandbOptions", "log_model_table"]


def log_model_table(
    options: WandbOptions,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> str:
    """Log rows as the table ``models`` of a separate run, and return a message about the result.

    Args:
        options: project and mode.
        name: name of the folder ``runs/<name>/version_<k>``.
        rows: one row per model, all with the same keys.
        facts: configuration of the run.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # the returned message is the only output
    folder = next_run_dir(Path("runs"), name)
    forget_run_dir()
    stay_inside(folder)
    try:
        logger = SafeWandbLogger(folder, options)
        table = records_table([dict(row) for row in rows])
    except ModuleNotFoundError:
        return "W&B is not installed (`pip install wandb`); nothing was logged"
    logger.log_hyperparams(dict(facts))
    logger.log_metrics({"models": table})
    logger.finish()
    if logger.failed:
        return f"W&B failed; the table was not logged, see {folder}"
    return f"logged to W&B ({options.mode}): {len(rows)} models, {folder}"
