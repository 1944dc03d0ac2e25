"""Strata of bags for folds, splits and samplers: event, grade, or quartile of the first value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from structures import MILTask
from structures.tasks import TIME_TASKS, has_classes

IntArray = npt.NDArray[np.int64]

UNKNOWN = 4  # stratum of bags whose first value is unknown


def stratum_labels(labels: npt.NDArray[Any], task: MILTask, groups: Sequence[str] = ()) -> IntArray:
    """Return what takes the place of classes where bags are divided or drawn.

    Classes and grades are returned as they are. Of times it is whether the bag, or a bag of the
    same patient, has an event; of values the quartile of the first one, or of the mean of the
    first values of a patient, and 4 where it is unknown, as in the bootstrap of intervals (A773).

    >>> stratum_labels(np.array([[3.0, 0.0], [5.0, 1.0], [2.0, 0.0]]), "cox", "ppq").tolist()
    [1, 1, 0]

    Args:
        labels: (B,) or (B, C) classes, (B,) grades, (B, 2) times and events, or (B, T) values.
        task: kind of the labels.
        groups: (B,) the patient of each bag, or empty.

    Returns:
        (B,), or (B, C) for several classes a bag.
    """
    if has_classes(task):
        return labels
    unit = np.arange(len(labels))
    if len(groups):
        unit = np.unique(np.asarray(list(groups)), return_inverse=True)[1]
    if task in TIME_TASKS:
        events: IntArray = (np.bincount(unit, labels[:, 1] == 1) > 0).astype(np.int64)
        return events[unit]
    value = labels[:, 0]
    known = np.isfinite(value)
    number = np.bincount(unit, known)
    total = np.bincount(unit, np.where(known, value, 0.0))
    has = number > 0
    quartile = np.full(len(number), UNKNOWN, dtype=np.int64)
    if has.any():
        means = total[has] / number[has]
        cuts = np.quantile(means, (0.25, 0.5, 0.75))
        quartile[has] = np.searchsorted(cuts, means, side="right")
    return quartile[unit]


def drawn_by(
    labels: npt.NDArray[Any], task: MILTask, groups: Sequence[str], numbers: Sequence[int]
) -> IntArray:
    """Return what samplers of training bags draw by: the strata of these bags alone, else 0.

    Args:
        labels: labels of all B bags.
        task: kind of the labels.
        groups: (B,) the patient of each bag, or empty.
        numbers: the training bags.

    Returns:
        (B,), or (B, C) for several classes a bag.
    """
    if has_classes(task):
        return labels
    chosen = np.asarray(numbers, dtype=np.int64)
    kinds = np.zeros(len(labels), dtype=np.int64)
    own = [groups[number] for number in numbers] if groups else ()
    kinds[chosen] = stratum_labels(labels[chosen], task, own)
    return kinds


def unlabelled(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return (B,) True for bags of which no label is known.

    Args:
        labels: classes or grades, -1 where unknown, or (B, T) times or values, NaN where unknown.
    """
    missing: npt.NDArray[np.bool_] = np.isnan(labels) if labels.dtype.kind == "f" else labels < 0
    return missing if missing.ndim == 1 else np.logical_and.reduce(missing, axis=1)
