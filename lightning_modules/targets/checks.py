"""Checks of trainings on times, values and grades."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.targets.bags import TargetPredictions
from evaluation.targets.scores import METRICS, score
from evaluation.targets.tables import BinnedCurves
from structures import MILTask
from structures.tasks import TIME_TASKS

# The metric of each task that is shown while it trains.
HEADLINE = {
    "cox": "bag_c_index",
    "discrete_time": "bag_c_index",
    "regression": "bag_r2",
    "ordinal": "bag_quadratic_kappa",
}


def check_step(task: MILTask, bags: int) -> None:
    """Check that the bags of a step have something to learn from.

    Args:
        task: what the labels are.
        bags: bags of a training batch on all processes.

    Raises:
        ValueError: it is one bag of ``cox``.
    """
    if task == "cox" and bags == 1:  # A749
        raise ValueError(
            "the task cox compares the bags of a batch, and the loss of a batch of one bag is "
            "always 0; accumulated batches are not compared either. Raise data.batch_size (64 in "
            "configs/mil/abmil_cox.yaml)"
        )


def undefined_target_metric(
    metric: str, labels: npt.NDArray[Any], task: MILTask, count: int
) -> str:
    """Return why a metric has no value on some bags whatever is predicted, or an empty text.

    Args:
        metric: name without its split, such as ``bag_c_index``.
        labels: of the bags, see `TargetPredictions`.
        task: what the labels are.
        count: bins, values or grades.
    """
    if metric not in METRICS[task]:
        return ""
    if task == "cox" and metric == "bag_ibs":  # A785
        return "survival probabilities of cox need a baseline, which is known after the training"
    found = _any_predictions(labels, task, count)
    known = found.known
    if not known.any():
        return "no validation bag has a known target"
    scored = score(found.rows(known).scorer())
    return scored.undefined.get(metric, "")


def _any_predictions(labels: npt.NDArray[Any], task: MILTask, count: int) -> TargetPredictions:
    """Return predictions that differ between the bags, so that labels alone decide."""
    bags, names = len(labels), tuple(map(str, range(len(labels))))
    order = np.arange(bags, dtype=np.float64)
    if task in TIME_TASKS:
        curves = BinnedCurves(np.ones((bags, 1)), [1.0])
        return TargetPredictions(task, names, labels, np.zeros(bags), curves)
    if task == "regression":
        values = np.repeat(order[:, None], labels.shape[1], axis=1)
        return TargetPredictions(task, names, labels, values)
    grades = np.eye(count)[np.arange(bags) % count] if bags else np.zeros((0, count))
    return TargetPredictions(task, names, labels, grades)
