"""Predictions of patients from those of their bags, for times, values and grades."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.targets.bags import TargetPredictions
from evaluation.targets.censoring import FloatArray
from evaluation.targets.tables import Curves
from structures import BadDataPolicy, Problem, settle

_NAMED = 3  # bags of a label that a message names


class MeanCurves:
    """Mean survival of the bags of each patient.

    Args:
        curves: curves of the bags.
        parts: numbers of the bags of each patient.
    """

    def __init__(self, curves: Curves, parts: list[list[int]]) -> None:
        self.curves, self.parts = curves, parts

    def at(self, times: FloatArray) -> FloatArray:
        """Return (n, T) probabilities."""
        every = self.curves.at(times)
        return np.array([every[part].mean(axis=0) for part in self.parts])

    def rows(self, chosen: npt.NDArray[np.generic]) -> MeanCurves:
        """Return the curves of some patients."""
        numbers = np.arange(len(self.parts))[chosen].tolist()
        return MeanCurves(self.curves, [self.parts[number] for number in numbers])


def pool_targets(
    found: TargetPredictions, source: Path, policy: BadDataPolicy = "error"
) -> tuple[TargetPredictions, tuple[Problem, ...]]:
    """Return a row for each patient, in the order of their first bags, and who was left out.

    Risks, survival at each time, values and probabilities of grades are averaged over the bags.
    The labels of a patient's bags have to agree, but for values that are not known of some of them.
    # A788

    Args:
        found: predictions of bags whose patients are known.
        source: the file, for messages.
        policy: ``skip`` leaves out patients whose bags differ in their targets.

    Raises:
        DataProblems: bags of a patient differ in their targets and the policy is ``error``, or no
            patient is left.
        ValueError: the bags have no patients.
    """
    if not found.groups:
        raise ValueError(
            f"{source}: the patients of the bags are not known; add them, as the column patient_id "
            "of a table or groups of an npz file"
        )
    bags: dict[str, list[int]] = {}
    for number, patient in enumerate(found.groups):
        bags.setdefault(patient, []).append(number)
    faults = [p for name, part in bags.items() for p in _differ(source, found, name, part)]
    left_out = settle(faults, policy)
    for fault in left_out:
        del bags[str(fault.item)]
    if not bags:
        end = Problem(source, None, None, "no patient is left", "correct the targets")
        settle([*left_out, end], "error")
    parts, patients = list(bags.values()), tuple(bags)
    pooled = replace(
        found,
        bag_ids=patients,
        labels=np.array([_label(found.labels[part]) for part in parts]),
        predictions=np.array([found.predictions[part].mean(axis=0) for part in parts]),
        curves=None if found.curves is None else MeanCurves(found.curves, parts),
        groups=patients,
    )
    return pooled, left_out


def _label(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the label of (b, ...) bags that agree: of each value the first that is known."""
    if labels.ndim < 2:
        return np.asarray(labels[0])
    first = np.isnan(labels).argmin(axis=0)  # 0 where none is known
    return np.asarray(np.take_along_axis(labels, first[None], axis=0)[0])


def _differ(source: Path, found: TargetPredictions, patient: str, part: list[int]) -> list[Problem]:
    """Return a problem if the bags of a patient differ in their targets."""
    own, one = found.labels[part], _label(found.labels[part])
    if found.task == "regression" and np.all(np.isnan(own) | (own == one)):
        return []
    named: dict[str, list[str]] = {}
    for number in part:
        values = np.atleast_1d(found.labels[number]).tolist()
        named.setdefault(" ".join(f"{v:g}" for v in values), []).append(found.bag_ids[number])
    if len(named) < 2:
        return []
    parts = [f"{text} ({_some(names)})" for text, names in sorted(named.items())]
    reason = f"bags with targets {', '.join(parts)}"
    return [Problem(source, patient, None, reason, "give all bags of a patient one target",
                    "patient")]  # fmt: skip


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
