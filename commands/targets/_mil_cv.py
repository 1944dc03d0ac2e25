"""The part of `evaluate.py mil-cv` that scores times, values and grades."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands._tables import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.cross_validation.run import CrossValidation
    from evaluation.targets.folds import TimeOptions


def time_options(args: argparse.Namespace) -> TimeOptions:
    """Return how times are scored."""
    from evaluation.targets.folds import TimeOptions

    times = None if args.times is None else tuple(args.times)
    return TimeOptions(times, args.tau, args.groups)


def write_predictions(path: Path, result: CrossValidation) -> None:
    """Write the table of the test bags of all folds."""
    from evaluation.mil.fold_predictions import FoldPredictions, write_fold_csv
    from evaluation.targets.folds import write_target_folds

    found = result.predictions
    if isinstance(found, FoldPredictions):
        write_fold_csv(path, found)
    else:
        write_target_folds(path, found)


def show_details(details: Mapping[str, Any]) -> None:
    """Print means over folds at the scored times or of each value, and what is undefined."""
    times = [(f"{row['time']:g}", row) for row in details.get("times", ())]
    values = list(details.get("targets", {}).items())
    _show_means("times", times, ("auc", "brier", "at_risk"))
    if len(values) > 1:
        _show_means("values", values, ("bags", "r2", "mae", "rmse", "pearson", "spearman"))
    for name, folds in details.get("undefined", {}).items():
        first = folds[0]
        where = f"repeat {first['repeat']}, fold {first['fold']}"
        print(
            f"note: {name} is undefined in {len(folds)} fold(s), the first {where}: "
            f"{first['reason']}"
        )


def _show_means(
    what: str, rows: Sequence[tuple[str, Mapping[str, Any]]], columns: Sequence[str]
) -> None:
    if rows:
        cells = [[name, *(row[column]["mean"] for column in columns)] for name, row in rows]
        show(f"{what}: means over folds", [what.removesuffix("s"), *columns], cells)
