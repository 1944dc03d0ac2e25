"""Predictions of validation bags, to which a temperature is fitted, apart from those scored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.mil.collector import BagScores
from evaluation.mil.patients import Pool, pool_patients
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.targets.files import read_predictions
from evaluation.targets.patients import pool_targets
from structures import BadDataPolicy, DataProblems, MILTask, Problem
from structures.tasks import TIME_TASKS

_NAMED = 3  # bags that a message names


class ValidationBags(NamedTuple):
    """Validation bags, or their patients.

    Attributes:
        labels: see `evaluation.statistics.calibration.calibration`.
        probabilities: see `calibration`.
        problems: problems of lines and patients that were left out.
    """

    labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    probabilities: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    problems: tuple[Problem, ...] = ()


def read_validation_bags(
    path: Path, scored: BagPredictions, policy: BadDataPolicy = "error", pool: Pool | None = None
) -> tuple[BagPredictions, ValidationBags | None]:
    """Read the table of validation bags of a model.

    Args:
        path: a table of predictions as in `read_predictions`.
        scored: predictions of the bags that are scored.
        policy: ``skip`` leaves out faulty lines.
        pool: how bags become patients, or None to keep bags.

    Returns:
        The predictions, and what is fitted to; None for times, which have no temperature.

    Raises:
        DataProblems: see `read_predictions`, `pool_patients` and `pool_targets`.
        ValueError: the table is of another task or of other classes, or has no known grade.
    """
    task: MILTask | None = "ordinal" if scored.task == "ordinal" else None
    found = read_predictions(path, policy, patients=pool is not None, task=task)
    times = {scored.task, found.task} <= TIME_TASKS
    if found.task != scored.task and not times:
        raise ValueError(
            f"{path}: has the columns of {found.task}, the scored bags are of {scored.task}; give "
            "predictions of the same model for its validation bags"
        )
    if times:
        return found, None
    _check_classes(path, scored, found)
    if found.target is None:
        kept = found if pool is None else pool_patients(found, pool, policy)
        return found, ValidationBags(kept.scores.labels, kept.scores.probabilities, kept.problems)
    bags, problems = found.target.rows(found.target.known), found.problems
    if not bags.bag_ids:
        raise ValueError(f"{path}: no bag has a known grade; add them")
    if pool is not None:
        bags, left_out = pool_targets(bags, path, policy)
        problems += left_out
    return found, ValidationBags(bags.labels, bags.predictions, problems)


def _check_classes(path: Path, scored: BagPredictions, found: BagPredictions) -> None:
    shapes = scored.scores.probabilities.shape[1:], found.scores.probabilities.shape[1:]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{path}: has {shapes[1][0]} classes, the scored bags have {shapes[0][0]}; give "
            "predictions of the same model for its validation bags"
        )
    if scored.classes and scored.classes != found.classes:
        raise ValueError(
            f"{path}: the classes are {', '.join(found.classes)}, those of the scored bags "
            f"{', '.join(scored.classes)}; give predictions of the same model"
        )


def refuse_shared(path: Path, scored: BagScores, validation: BagScores) -> None:
    """Refuse validation bags that are scored, or are of patients who are (A757).

    Args:
        path: the table of the validation bags, for messages.
        scored: what is scored.
        validation: the validation bags.

    Raises:
        DataProblems: bags or patients are in both; the message names them.
    """
    faults = list(_shared(path, scored, validation))
    if faults:
        raise DataProblems(faults)


def _shared(path: Path, scored: BagScores, validation: BagScores) -> Iterator[Problem]:
    remedy = (
        "leave them out of one of the two; --allow-overlap goes on all the same, for example "
        "where other bags have the same names"
    )
    parts = (
        ("bags", scored.bag_ids, validation.bag_ids),
        ("patients", scored.groups, validation.groups),
    )
    for kind, first, second in parts:
        both = sorted(set(first) & set(second))
        if both:
            more = f" and {len(both) - _NAMED} more" if len(both) > _NAMED else ""
            named = f"{', '.join(both[:_NAMED])}{more}"
            yield Problem(path, None, None, f"{kind} that are scored too: {named}", remedy)
