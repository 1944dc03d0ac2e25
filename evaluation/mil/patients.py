"""Predictions of patients from those of their bags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from evaluation.mil.collector import BagScores
from evaluation.mil.predictions_csv import BagPredictions
from structures import BadDataPolicy, MILTask, Problem, settle

Pool = Literal["mean", "max"]
FloatArray = npt.NDArray[np.float64]
_NAMED = 3  # bags of a label that a message names


def pool_patients(
    found: BagPredictions, pool: Pool = "mean", policy: BadDataPolicy = "error"
) -> BagPredictions:
    """Return a row for each patient, in the order of their first bags.

    The label of a patient is that of the bags, which have to agree with ``mean``; with ``max`` it
    is the largest label, or the union of several classes.  # A675

    Args:
        found: predictions of bags whose patients are known.
        pool: ``mean`` of the probabilities, or ``max``, see `pooled`.
        policy: ``skip`` leaves out patients whose bags differ in label.

    Returns:
        The patients as bags, without the AUROC of their attention.

    Raises:
        DataProblems: bags of a patient differ in label and the policy is ``error``, or no patient
            is left.
        ValueError: the bags have no patients.
    """
    scores, source = found.scores, found.files[-1] if found.files else Path("predictions")
    if not scores.groups:
        raise ValueError(
            f"{source}: the patients of the bags are not known; add them, as the column patient_id "
            "of a table or groups of an npz file"
        )
    bags: dict[str, list[int]] = {}
    for number, patient in enumerate(scores.groups):
        bags.setdefault(patient, []).append(number)
    faults = [] if pool == "max" else list(_contradictions(source, scores, bags))
    left_out = settle(faults, policy)
    for fault in left_out:
        del bags[str(fault.item)]
    if not bags:
        reason, remedy = "no patient is left", "correct the labels, or use --pool max"
        settle([*left_out, Problem(source, None, None, reason, remedy)], "error")
    parts = list(bags.values())
    patients = tuple(bags)
    one = BagScores(
        bag_ids=patients,
        index=np.arange(len(parts)),
        labels=np.array([scores.labels[part].max(axis=0) for part in parts], dtype=np.int64),
        probabilities=np.array(
            [pooled(scores.probabilities[part], found.task, pool) for part in parts]
        ),
        groups=patients,
    )
    return found._replace(scores=one, problems=found.problems + left_out)


def pooled(probabilities: FloatArray, task: MILTask, pool: Pool) -> FloatArray:
    """Return the probabilities of a patient from those of n bags.

    ``mean`` averages each class. ``max`` takes the largest probability of the positive class, or of
    each class of a multilabel task. Several exclusive classes are taken in their order, as labels
    are: the probability of class k or a higher one is the largest of the bags', so that the result
    sums to 1 and two classes give what a binary task gives.  # A676

    >>> pooled(np.array([[0.9, 0.1], [0.3, 0.7]]), "multiclass", "max").round(3).tolist()
    [0.3, 0.7]

    Args:
        probabilities: (n,) for a binary task, else (n, C).
        task: task of the probabilities.
        pool: see above.
    """
    if pool == "mean":
        return np.asarray(probabilities.mean(axis=0))
    if task != "multiclass":
        return np.asarray(probabilities.max(axis=0))
    at_least = probabilities[:, ::-1].cumsum(axis=1)[:, ::-1].max(axis=0)  # class k or higher
    return np.asarray(np.clip(-np.diff(at_least, append=0.0), 0.0, 1.0), dtype=np.float64)


def _contradictions(
    source: Path, scores: BagScores, bags: dict[str, list[int]]
) -> Sequence[Problem]:
    """Return a problem for each patient whose bags differ in label."""
    problems = []
    for patient, part in bags.items():
        named: dict[str, list[str]] = {}
        for number in part:
            label = scores.labels[number]
            text = " ".join(map(str, label.tolist())) if label.ndim else str(label)
            named.setdefault(text, []).append(scores.bag_ids[number])
        if len(named) > 1:
            parts = [f"{text} ({_some(own)})" for text, own in sorted(named.items())]
            reason = f"bags with labels {', '.join(parts)}"
            remedy = "give all bags of a patient one label, or take the largest by --pool max"
            problems.append(Problem(source, patient, None, reason, remedy, "patient"))
    return problems


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
