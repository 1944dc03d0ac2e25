"""Counts and texts that describe the targets of a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from structures import MILTask
from structures.tasks import TIME_TASKS


def target_counts(labels: npt.NDArray[Any], task: MILTask) -> dict[str, int]:
    """Return the number of events, or of targets, for a table of splits."""
    if task in TIME_TASKS:
        return {"events": int((labels[:, 1] == 1).sum())}
    return {"targets": int(labels.shape[1])}


def target_text(labels: npt.NDArray[Any], task: MILTask, names: Sequence[str]) -> str:
    """Return a line on the targets of b bags, such as ``times 2 to 90 (median 31), 12 events``."""
    if task in TIME_TASKS:
        times = labels[np.isfinite(labels[:, 0]), 0]
        if not times.size:
            return "times unknown"
        span = f"{times.min():g} to {times.max():g} (median {np.median(times):g})"
        return f"times {span}, {int((labels[:, 1] == 1).sum())} events"
    parts = []
    for name, column in zip(names, labels.T, strict=True):
        values = column[np.isfinite(column)]
        span = f" {values.min():g} to {values.max():g}" if values.size else ""
        unknown = len(column) - values.size
        parts.append(f"{name}{span}" + (f", unknown {unknown}" if unknown else ""))
    return "; ".join(parts)


def label_columns_of(task: MILTask, names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the labels in a file of splits."""
    if task in TIME_TASKS:
        return "time", "event"
    return tuple(names) if task == "regression" else ("label",)


def label_fields(label: npt.NDArray[Any]) -> tuple[str, ...]:
    """Return the fields of one bag's times or values, empty where unknown."""
    return tuple("" if np.isnan(value) else f"{value:.15g}" for value in label.tolist())
