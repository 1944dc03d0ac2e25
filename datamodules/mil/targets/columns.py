"""Times and values in the columns of a table of slides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.mil.targets.checks import useless_targets
from datamodules.mil.targets.options import TargetOptions
from structures import DataProblems, Problem

FloatArray = npt.NDArray[np.float64]
Fault = tuple[int, str, str]  # number of the slide, reason, remedy

_FLAGS = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}


def read_targets(
    path: Path,
    header: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    options: TargetOptions,
) -> tuple[FloatArray, list[Fault]]:
    """Return the targets of S slides and the faults of single slides.

    Args:
        path: the table, for messages.
        header: its columns.
        rows: fields of each slide by column.
        options: the columns.

    Returns:
        (S, 2) time and event, or (S, T) values, NaN where unknown.

    Raises:
        DataProblems: a column is missing, or nothing can be learnt from the targets.
        ValueError: the options contradict each other, or no column of values is named.
    """
    options.check()
    columns = options.columns
    if not columns:
        raise ValueError(
            f"{path}: the task regression needs the columns of the values; name them by "
            "target_columns, such as --data.target_columns '[tmb]'"
        )
    if not _present(path, header, options):
        return np.full((len(rows), len(columns)), np.nan), []
    read = _times if options.has_times else _values
    labels, faults = read(rows, options)
    if options.labels_needed and not faults:
        problems = [Problem(path, None, None, *each) for each in useless_targets(labels, options)]
        if problems:
            raise DataProblems(problems)
    return labels, faults


def _present(path: Path, header: Sequence[str], options: TargetOptions) -> bool:
    """Return whether the table has the columns; False if none is there and none is needed."""
    missing = [name for name in options.columns if name not in header]
    if not missing:
        return True
    if len(missing) == len(options.columns) and not options.labels_needed:
        rank_zero_warn(f"{path}: no column {', '.join(missing)}, so the slides have no labels")
        return False
    near = get_close_matches(missing[0], header, n=1)
    argument = "time_column, event_column or censorship_column"
    argument = argument if options.has_times else "target_columns"
    hint = f"did you mean {near[0]}? Name" if near else "name"
    reason = f"column {', '.join(missing)} is missing; the file has {', '.join(header)}"
    remedy = f"{hint} columns by {argument}"
    if len(missing) == len(options.columns):
        remedy += "; slides without targets can be predicted with --data.labels_needed false"
    raise DataProblems([Problem(path, None, None, reason, remedy)])


def _times(
    rows: Sequence[Mapping[str, str]], options: TargetOptions
) -> tuple[FloatArray, list[Fault]]:
    time, flag = options.columns
    labels, faults = np.full((len(rows), 2), np.nan), []
    for at, row in enumerate(rows):
        found, event = _number(row[time]), _FLAGS.get(row[flag])
        if found is None or not (math.isfinite(found) and found >= 0):
            reason = f"{time} is {row[time]!r}" if row[time] else f"{time} is empty"
            remedy = "write a time of at least 0, or remove the line of a slide without a time"
            faults.append((at, reason, remedy))
        if event is None:
            meaning = "1 if the event happened at that time, 0 if the time is censored"
            if options.censorship_column is not None:
                meaning = "1 if the time is censored, 0 if the event happened then"
            reason = f"{flag} is {row[flag]!r}" if row[flag] else f"{flag} is empty"
            faults.append((at, reason, f"write {meaning}"))
        elif found is not None:
            censored = options.censorship_column is not None
            labels[at] = found, 1 - event if censored else event
    return labels, faults


def _values(
    rows: Sequence[Mapping[str, str]], options: TargetOptions
) -> tuple[FloatArray, list[Fault]]:
    columns = options.columns
    labels, faults = np.full((len(rows), len(columns)), np.nan), []
    for at, row in enumerate(rows):
        for place, name in enumerate(columns):
            value = _number(row[name])
            if not row[name]:
                continue  # A772
            if value is None or not math.isfinite(value):
                remedy = "write a number, or leave the field empty where the value is unknown"
                faults.append((at, f"{name} is {row[name]!r}", remedy))
            else:
                labels[at, place] = value
    return labels, faults


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
