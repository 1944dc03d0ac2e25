"""Pairing of two tables of times, values or grades by bag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.comparison.pairs import common_bags, refuse_other_classes
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.patients import pool_targets
from structures import BadDataPolicy, MILTask, Problem, settle
from structures.tasks import CLASS_TASKS, TIME_TASKS

KINDS: dict[MILTask, str] = {
    "cox": "times", "discrete_time": "times", "regression": "values", "ordinal": "grades"
}  # fmt: skip


class PairedTargets(NamedTuple):
    """Predictions of two models for the same n bags, in the order of the first table.

    Attributes:
        first: those of the first model.
        second: those of the second model; targets, names and patients equal those of the first.
        problems: problems of the bags or patients that were left out.
    """

    first: TargetPredictions
    second: TargetPredictions
    problems: tuple[Problem, ...] = ()


def pair_targets(
    files: tuple[Path, Path],
    tables: tuple[BagPredictions, BagPredictions],
    policy: BadDataPolicy = "error",
) -> PairedTargets:
    """Bring two tables into the same order.

    Args:
        files: the files of the tables, for messages.
        tables: the content of the files, at least one with ``target``.
        policy: ``skip`` leaves out bags that only one table has.

    Raises:
        DataProblems: a bag is in one table only and the policy is ``error``; or the target or the
            patient of a bag differs.
        ValueError: the tasks, or the names or order of values or grades, differ, or no bag is in
            both.
    """
    one, two = _targets(files, tables)
    left, right, problems = common_bags(files, (one.bag_ids, two.bag_ids), policy)
    first, second = one.rows(left), two.rows(right)
    settle(list(_disagreements(files, first, second)), "error")
    groups = first.groups or second.groups
    numbered = one.names and all(map(str.isdecimal, one.names))
    names = two.names if numbered else one.names
    first, second = (replace(part, groups=groups, names=names) for part in (first, second))
    return PairedTargets(first, second, problems)


def pool_target_pairs(
    files: tuple[Path, Path], pair: PairedTargets, policy: BadDataPolicy = "error"
) -> PairedTargets:
    """Return a row for each patient in place of each bag; see `pool_targets`.

    Args:
        files: see `pair_targets`.
        pair: the paired bags.
        policy: ``skip`` leaves out patients whose bags differ in their targets.

    Raises:
        DataProblems: see `pool_targets`.
        ValueError: see `pool_targets`.
    """
    first, left_out = pool_targets(pair.first, files[0], policy)
    second, _ = pool_targets(pair.second, files[1], policy)  # with the same targets
    return PairedTargets(first, second, pair.problems + left_out)


def _targets(
    files: tuple[Path, Path], tables: tuple[BagPredictions, BagPredictions]
) -> tuple[TargetPredictions, TargetPredictions]:
    """Return the predictions of two tables of one task with the same values or grades."""
    kinds = [KINDS.get(table.task, f"classes ({table.task})") for table in tables]
    one, two = (table.target for table in tables)
    if one is None or two is None or kinds[0] != kinds[1]:
        told = [f"{file} has {kind}" for file, kind in zip(files, kinds, strict=True)]
        grades = " (--task ordinal reads classes as grades)" if "grades" in kinds else ""
        raise ValueError(f"{told[0]}, but {told[1]}; compare predictions of the same task{grades}")
    if one.task == "ordinal":
        refuse_other_classes(files, tables)
    elif one.names != two.names:
        named = [f"{f} has the values {', '.join(t.names)}"
                 for f, t in zip(files, (one, two), strict=True)]  # fmt: skip
        raise ValueError(f"{named[0]}, but {named[1]}; write the same columns in the same order")
    return one, two


def _disagreements(
    files: tuple[Path, Path], first: TargetPredictions, second: TargetPredictions
) -> Iterator[Problem]:
    """Yield a problem for each bag whose target or patient differs."""
    remedy = f"fix the wrong one, here or in {files[0]}"
    columns = _columns(first)
    truth = [np.reshape(one.labels, (len(one.bag_ids), -1)) for one in (first, second)]
    equal = (truth[0] == truth[1]) | (np.isnan(truth[0]) & np.isnan(truth[1]))
    for n, bag in enumerate(first.bag_ids):
        reasons = [
            f"{name} is {_said(truth[1][n, k])}, the other file says {_said(truth[0][n, k])}"
            for k, name in enumerate(columns)
            if not equal[n, k]
        ]
        if first.groups and second.groups and first.groups[n] != second.groups[n]:
            reasons.append(f"patient is {second.groups[n]}, the other file says {first.groups[n]}")
        for reason in reasons:
            yield Problem(files[1], bag, None, reason, remedy, kind="bag")


def _columns(found: TargetPredictions) -> Sequence[str]:
    if found.task in TIME_TASKS:
        return "time", "event"
    assert found.task not in CLASS_TASKS
    return [f"target_{n}" for n in found.names] if found.task == "regression" else ["grade"]


def _said(value: float) -> str:
    return "unknown" if np.isnan(value) or value == -1 else repr(float(value)).removesuffix(".0")
