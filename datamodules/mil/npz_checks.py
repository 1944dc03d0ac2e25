"""Checks of an npz file of bags; `datamodules.mil.npz_file` describes the layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.mil.splits import divided_patients
from datamodules.mil.targets.arrays import target_problems, with_classes
from datamodules.mil.targets.options import TargetOptions
from formats.features import INSTANCE_LABELS
from structures import MILTask, Problem

Array = npt.NDArray[Any]
_AXES = {"X": (2,), "bag_index": (1,), "y": (1, 2)}
_SHOWN = 5  # numbers named in a message


def find_bag_problems(
    path: Path,
    content: Mapping[str, Array],
    classes: int | None,
    task: MILTask | None = None,
    targets: TargetOptions = TargetOptions(),  # noqa: B008
) -> list[Problem]:
    """Return every fault of the file, of its bags (``item`` is the number) and of its patients.

    Args:
        path: the file.
        content: arrays of the file.
        classes: number of classes if it is already known; ``y`` may then be missing.
        task: kind of the labels if it is already known.
        targets: what the labels are if they are times or values.
    """
    if targets.apply:
        found = target_problems(path, content, targets)
        if any(problem.item is None for problem in found):
            return found
        content, classes, task = with_classes(content, targets), 2, None
        return found + (
            list(_missing(path, content, classes)) or list(_problems(path, content, classes))
        )
    return (
        list(_missing(path, content, classes))
        or list(_task_problems(path, content, classes, task))
        or list(_problems(path, content, classes))
    )


def _file_problem(path: Path, reason: str, remedy: str) -> Problem:
    return Problem(path, None, None, reason, remedy, kind="bag")


def _missing(path: Path, content: Mapping[str, Array], classes: int | None) -> Iterator[Problem]:
    for name, axes in _AXES.items():
        if name not in content:
            if name == "y" and classes is not None:
                continue
            reason = f"array {name} is missing; the file has {sorted(content)}"
            remedy = "see docs/data.md for the layout"
            if name == "y" and "time" in content:
                remedy = "set --data.task cox or discrete_time to train on times"
            yield _file_problem(path, reason, remedy)
        elif content[name].ndim not in axes or content[name].size == 0:
            wanted = " or ".join(map(str, axes))
            reason = f"{name} must have {wanted} axes and be non-empty, got {content[name].shape}"
            yield _file_problem(path, reason, "see docs/data.md for the layout")
        elif content[name].dtype.kind not in ("fiu" if name == "X" else "iufb"):
            reason = f"{name} must hold numbers, got {content[name].dtype}"
            yield _file_problem(path, reason, "see docs/data.md for the layout")


def _task_problems(
    path: Path, content: Mapping[str, Array], classes: int | None, task: MILTask | None
) -> Iterator[Problem]:
    """Yield a problem if the shape of the labels does not fit the task."""
    labels = content.get("y")
    if labels is None:
        return
    shape, file = labels.shape, partial(_file_problem, path)
    if len(shape) == 1:
        if task == "multilabel":
            reason = "y has one class per bag, which does not fit the task multilabel"
            yield file(reason, "store y as (bags, classes), zeros and ones")
    elif shape[1] == 1:
        yield file(f"y has shape {shape}, a single class", f"store it as ({shape[0]},)")
    elif task in ("binary", "multiclass", "ordinal"):
        reason = f"y has shape {shape}, which does not fit the task {task}"
        yield file(reason, "store one class per bag")
    elif classes is not None and shape[1] != classes:
        reason = f"y has shape {shape}, but there are {classes} classes"
        yield file(reason, "store one column for each class")
    elif task is None and ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all():
        reason = f"y has shape {shape} and every bag has exactly one class"
        remedy = "store the class numbers, y.argmax(axis=1), or set task: multilabel"
        yield file(reason, remedy)


def _problems(path: Path, content: Mapping[str, Array], classes: int | None) -> Iterator[Problem]:
    features, bag_index = content["X"], content["bag_index"]
    file = partial(_file_problem, path)
    if not np.isfinite(bag_index).all() or (bag_index != np.floor(bag_index)).any():
        yield file("bag_index must hold whole numbers", "number the bags 0, 1, ...")
        return
    bags = len(content["y"]) if "y" in content else int(bag_index.max()) + 1
    if "y" not in content and not 0 < bags <= bag_index.size:
        yield file(f"bag_index reaches {bags - 1}", f"{bag_index.size} instances fill fewer bags")
        return
    if len(features) != len(bag_index):
        yield file(
            f"X has {len(features)} instances but bag_index {len(bag_index)} entries",
            "both need one entry per instance",
        )
    else:
        yield from _non_finite_problems(path, features, bag_index)
    yield from _bag_order(path, bag_index, bags)
    if "instance_labels" in content:
        yield from _instance_problems(path, content["instance_labels"], bag_index)
    if "y" in content:
        judge = _label_problems if content["y"].ndim == 1 else _several_label_problems
        yield from judge(path, content["y"], classes)
    folds, groups = content.get("cv_fold"), content.get("groups")
    whole = groups is not None and groups.shape == (bags,)
    if groups is not None and not whole:
        yield file(f"groups has shape {groups.shape}", f"name the patient of each of {bags} bags")
    if folds is not None:
        faults = list(_fold_problems(path, folds, bags))
        yield from faults
        if whole and groups is not None and not faults:
            for row in folds:
                yield from divided_patients(path, [str(g) for g in groups], row.tolist(), "fold")


def _non_finite_problems(path: Path, features: Array, bag_index: Array) -> Iterator[Problem]:
    with np.errstate(over="ignore"):
        features = features.astype(np.float32)  # the type of the features of a bag
    rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
    for bag, first in zip(*np.unique(bag_index[rows], return_index=True), strict=True):
        row = int(rows[first])
        column = int(np.flatnonzero(~np.isfinite(features[row]))[0])
        yield Problem(
            path, int(bag), row, f"feature {column} is NaN, infinite or beyond float32",
            "impute it or remove the row", kind="bag", part="row",
        )  # fmt: skip


def _bag_order(path: Path, bag_index: Array, bags: int) -> Iterator[Problem]:
    falls = np.flatnonzero(np.diff(bag_index) < 0)
    if falls.size:
        row = falls[0] + 1
        yield _file_problem(
            path,
            f"bag_index falls from {bag_index[row - 1]} to {bag_index[row]} at row {row}",
            "sort the instances by bag",
        )
    present = np.unique(bag_index)
    outside = present[(present < 0) | (present >= bags)]
    if outside.size:
        yield _file_problem(
            path,
            f"bag_index names bags {_abbreviated(outside)}, but the bags are 0 to {bags - 1}",
            "give y one class per bag and number the bags from 0",
        )
    for bag in np.setdiff1d(np.arange(bags), present).tolist():
        yield Problem(
            path, bag, None, "no instances", "remove the bag and renumber the rest", kind="bag"
        )


def _label_problems(path: Path, labels: Array, classes: int | None) -> Iterator[Problem]:
    top = np.inf if classes is None else classes - 1
    whole = np.isfinite(labels) & (labels == np.floor(labels))
    bad = np.flatnonzero(~whole | (labels < 0) | (labels > top))
    allowed = "0, 1, ..." if classes is None else f"0 to {classes - 1}"
    for bag in bad.tolist():
        yield Problem(
            path, bag, None, f"label {labels[bag]}",
            f"use the classes {allowed} (0 and 1 for negative and positive)", kind="bag",
        )  # fmt: skip
    found = np.unique(labels[np.setdiff1d(np.arange(labels.size), bad)])
    if classes is None and found.size == 1 and not bad.size:
        reason = f"every bag has the class {found[0]}"
        yield _file_problem(
            path, reason, "at least two classes are needed; add bags of another one"
        )
    elif classes is None and found.size and found[-1] > 1:
        absent = np.setdiff1d(np.arange(min(found[-1], labels.size) + 1), found)
        if absent.size:
            reason = f"no bag has class {_abbreviated(absent)} of 0 to {found[-1]}"
            yield _file_problem(
                path, reason, "renumber the classes, or name them all by class_names"
            )


def _several_label_problems(path: Path, labels: Array, classes: int | None) -> Iterator[Problem]:
    wrong = (labels != 0) & (labels != 1)
    for bag in np.flatnonzero(wrong.any(axis=1)).tolist():
        column = int(wrong[bag].argmax())
        yield Problem(
            path, bag, None, f"label {labels[bag, column]} for class {column}",
            "use 1 if the bag has the class, else 0", kind="bag",
        )  # fmt: skip
    absent = np.flatnonzero(~(labels == 1).any(axis=0))
    if absent.size and classes is None and not wrong.any():
        yield _file_problem(
            path,
            f"no bag has class {_abbreviated(absent)} of 0 to {labels.shape[1] - 1}",
            "leave the column out, or name all classes by class_names",
        )


def _instance_problems(path: Path, labels: Array, bag_index: Array) -> Iterator[Problem]:
    if labels.shape != bag_index.shape or labels.dtype.kind not in "iufb":
        yield _file_problem(
            path,
            f"instance_labels has shape {labels.shape} and type {labels.dtype} for "
            f"{bag_index.size} instances",
            "store one number per instance, in the order of X",
        )
        return
    values = labels.astype(np.float64)  # -1 is 255 as a byte
    wrong = np.flatnonzero(~np.isin(values, (-1, 0, 1)))
    for bag, first in zip(*np.unique(bag_index[wrong], return_index=True), strict=True):
        row = int(wrong[first])
        yield Problem(
            path, int(bag), row, f"instance_labels has {values[row]:g}", INSTANCE_LABELS,
            kind="bag", part="row",
        )  # fmt: skip


def _fold_problems(path: Path, folds: Array, bags: int) -> Iterator[Problem]:
    if folds.ndim != 2 or folds.shape[1] != bags or folds.dtype.kind not in "iu":
        reason = f"cv_fold must be integers (repeats, {bags}), got {folds.shape} {folds.dtype}"
        yield _file_problem(path, reason, "store one row per repeat")
        return
    for repeat, row in enumerate(folds):
        used = np.unique(row)
        if used.size < 2 or (used != np.arange(used.size)).any():
            yield _file_problem(
                path,
                f"repeat {repeat} of cv_fold has folds {_abbreviated(used)}",
                "number at least two folds from 0 without a gap",
            )


def _abbreviated(values: Array) -> str:
    shown = ", ".join(str(v) for v in values[:_SHOWN].tolist())
    return shown if values.size <= _SHOWN else f"{shown}, ... ({values.size} in all)"
