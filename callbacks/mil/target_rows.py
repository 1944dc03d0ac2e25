"""Rows of the table of bags whose target is a time or values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from callbacks.mil.instance_columns import InstanceColumns, worst_first
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.concordance import discordance
from evaluation.targets.files import text
from evaluation.targets.tables import BinnedCurves
from structures.tasks import TIME_TASKS


def target_rows(
    found: TargetPredictions,
    numbers: Sequence[int],
    instances: InstanceColumns,
    deviation: Sequence[float] = (),
) -> tuple[list[str], list[list[Any]]]:
    """Return column names and one row per bag, the largest error first, unknown targets last.

    Columns: bag, patient (if known), ``error``, the target, the prediction, then those of the
    instances. Of times these are ``time``, ``event``, ``risk`` and, of a discrete-time model,
    ``S(t)`` at the edges of its bins; the error of a bag is the share of its comparable pairs that
    are in the wrong order. Of values these are ``true`` and ``predicted`` of each, and the error is
    the largest of the bag's known values, in deviations of the training values.  # A697

    Args:
        found: predictions of n bags.
        numbers: (n,) numbers of the bags in the data set.
        instances: columns of the instances.
        deviation: (T,) deviation of the training values; 1 if empty.
    """
    if found.task in TIME_TASKS:
        names, cells, errors = _of_times(found)
    else:
        names, cells, errors = _of_values(found, deviation)
    columns = ["bag", *["patient"] * bool(found.groups), "error", *names, *instances.names]
    rows = [
        [bag, *found.groups[n : n + 1], float(errors[n]), *row, *instances.cells(numbers[n])]
        for n, (bag, row) in enumerate(zip(found.bag_ids, cells, strict=True))
    ]
    return columns, worst_first(columns, rows)


_Part = tuple[list[str], Iterator[list[Any]], npt.NDArray[np.float64]]


def _of_times(found: TargetPredictions) -> _Part:
    time, event = found.labels.T
    errors, known = np.full(len(time), np.nan), found.known
    errors[known] = discordance(time[known], event[known] == 1, found.predictions[known])
    names, survival = ["time", "event", "risk"], np.zeros((len(time), 0))
    if isinstance(found.curves, BinnedCurves):
        names += [f"S({text(edge)})" for edge in found.curves.edges]
        survival = found.curves.survival
    shown = (None if np.isnan(value) else int(value) for value in event)
    columns = zip(time.tolist(), shown, found.predictions.tolist(), survival, strict=True)
    return names, ([t, e, risk, *s.tolist()] for t, e, risk, s in columns), errors


def _of_values(found: TargetPredictions, deviation: Sequence[float]) -> _Part:
    count = found.predictions.shape[1]
    values = found.names or [str(number) for number in range(count)]
    scale = np.asarray(deviation) if len(deviation) else np.ones(count)
    off = np.abs(found.labels - found.predictions) / scale
    errors = np.where(found.known, np.max(off, axis=1, initial=0.0, where=~np.isnan(off)), np.nan)
    names = [f"{kind} {name}" for name in values for kind in ("true", "predicted")]
    pairs = np.stack((found.labels, found.predictions), axis=2).reshape(len(errors), -1)
    return names, (row.tolist() for row in pairs), errors
