"""Pairing of two tables of bag predictions by bag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.mil.collector import BagScores
from evaluation.mil.metrics import IntArray
from evaluation.mil.patients import Pool, pool_patients
from evaluation.mil.predictions_csv import BagPredictions
from structures import BadDataPolicy, MILTask, Problem, settle


class PairedBags(NamedTuple):
    """Predictions of two models for the same B bags, in the order of the first table.

    Attributes:
        first: scores of the first model.
        second: scores of the second model.
        task: task of the scores.
        classes: names of the classes; empty for a binary task. One of the tables may have numbers.
        groups: the patient of each bag, or empty.
        problems: problems of the bags that were left out.
    """

    first: BagScores
    second: BagScores
    task: MILTask
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    problems: tuple[Problem, ...]


def pair_bags(
    files: tuple[Path, Path],
    tables: tuple[BagPredictions, BagPredictions],
    policy: BadDataPolicy = "error",
) -> PairedBags:
    """Bring two tables of predictions into the same order.

    Args:
        files: the files of the tables, for messages.
        tables: the content of the files.
        policy: ``skip`` leaves out bags that only one table has.

    Raises:
        DataProblems: a bag is in one table only and the policy is ``error``; or the label or the
            patient of a bag differs.
        ValueError: the tasks or the names or order of the classes differ, or no bag is in both.
    """
    refuse_other_classes(files, tables)
    one, two = tables[0].scores, tables[1].scores
    left, right, problems = common_bags(files, (one.bag_ids, two.bag_ids), policy)
    first, second = _taken(one, left), _taken(two, right)
    settle(_disagreements(files, first, second), "error")
    groups = first.groups or second.groups
    numbered = all(map(str.isdecimal, tables[0].classes))
    classes = tables[1 if numbered else 0].classes
    return PairedBags(first, second, tables[0].task, classes, groups, problems)


def common_bags(
    files: tuple[Path, Path],
    bags: tuple[Sequence[str], Sequence[str]],
    policy: BadDataPolicy = "error",
) -> tuple[IntArray, IntArray, tuple[Problem, ...]]:
    """Return the lines of the common bags in both tables, in the order of the first.

    Args:
        files: see `pair_bags`.
        bags: names of the bags in each.
        policy: see `pair_bags`.

    Returns:
        (B,) numbers of the bags in the first and in the second table, and who was left out.

    Raises:
        DataProblems: see `pair_bags`.
        ValueError: no bag is in both.
    """
    place = {bag: number for number, bag in enumerate(bags[1])}
    lacking = [(files[1], files[0], bag) for bag in bags[0] if bag not in place]
    known = set(bags[0])
    lacking += [(files[0], files[1], bag) for bag in bags[1] if bag not in known]
    remedy = "score both on the same bags, or compare the shared bags by --bad-data skip"
    problems = settle(
        [Problem(f, b, None, f"is only in {o}", remedy, kind="bag") for f, o, b in lacking], policy
    )
    left = np.array([n for n, bag in enumerate(bags[0]) if bag in place], dtype=np.int64)
    if not left.size:
        raise ValueError(f"{files[0]} and {files[1]} have no bag in common")
    right = np.array([place[bags[0][n]] for n in left], dtype=np.int64)
    return left, right, problems


def pool_pairs(
    tables: tuple[BagPredictions, BagPredictions],
    bags: PairedBags,
    pool: Pool = "mean",
    policy: BadDataPolicy = "error",
) -> PairedBags:
    """Return a row for each patient in place of each bag.

    Args:
        tables: the tables of which the bags are.
        bags: the paired bags.
        pool: see `pool_patients`.
        policy: see `pool_patients`.

    Raises:
        DataProblems: see `pool_patients`.
        ValueError: see `pool_patients`.
    """
    scores = [replace(one, groups=bags.groups) for one in (bags.first, bags.second)]
    first, second = (
        pool_patients(table._replace(scores=one, problems=()), pool, policy)
        for table, one in zip(tables, scores, strict=True)
    )
    return bags._replace(
        first=first.scores,
        second=second.scores,
        groups=first.scores.groups,
        problems=bags.problems + first.problems,
    )


def refuse_other_classes(
    files: tuple[Path, Path], tables: tuple[BagPredictions, BagPredictions]
) -> None:
    """Refuse tables of other tasks or classes.

    Raises:
        ValueError: the tasks, or the names or order of the classes, differ.
    """
    shapes = [(table.task, len(table.classes)) for table in tables]
    if shapes[0] != shapes[1]:
        tasks = [
            f"{file}: {task}" + (f" of {classes} classes" if classes else "")
            for file, (task, classes) in zip(files, shapes, strict=True)
        ]
        raise ValueError(f"{tasks[0]}, but {tasks[1]}; compare predictions of the same task")
    known = {table.classes for table in tables if not all(map(str.isdecimal, table.classes))}
    if len(known) > 1:  # numbers stand for the classes of the labels in order  # A406
        names = [f"{f} scores {', '.join(t.classes)}" for f, t in zip(files, tables, strict=True)]
        raise ValueError(f"{names[0]}, but {names[1]}; write the same classes in the same order")


def _taken(scores: BagScores, numbers: IntArray) -> BagScores:
    return BagScores(
        bag_ids=tuple(scores.bag_ids[n] for n in numbers),
        index=np.arange(len(numbers)),
        labels=scores.labels[numbers],
        probabilities=scores.probabilities[numbers],
        groups=tuple(scores.groups[n] for n in numbers) if scores.groups else (),
    )


def _disagreements(files: tuple[Path, Path], first: BagScores, second: BagScores) -> list[Problem]:
    remedy = f"fix the wrong one, here or in {files[0]}"
    problems = []
    for n, bag in enumerate(first.bag_ids):
        labels = first.labels[n].tolist(), second.labels[n].tolist()
        if labels[0] != labels[1]:
            reason = f"label is {labels[1]}, the other file says {labels[0]}"
            problems.append(Problem(files[1], bag, None, reason, remedy, kind="bag"))
        if first.groups and second.groups and first.groups[n] != second.groups[n]:
            reason = f"patient is {second.groups[n]}, the other file says {first.groups[n]}"
            problems.append(Problem(files[1], bag, None, reason, remedy, kind="bag"))
    return problems
