"""Labels of the slides of a table: one class a slide, or several.

A slide has one class where a column holds one name or number. It has several where the column
separates them by ``;`` (``a;b``, and ``;`` alone for none), or where each class has a column of
zeros and ones (A401). Grades are classes in the order of ``class_names``; times and values have
columns of their own (`datamodules.mil.targets.columns`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.mil.class_names import misspelt, similar_names
from datamodules.mil.targets.columns import read_targets
from datamodules.mil.targets.options import TargetOptions
from structures import DataProblems, MILTask, Problem

IntArray = npt.NDArray[np.int64]

LABEL = "label"  # column of the labels unless others are named
_SEPARATOR = ";"
_SHOWN = 5  # values that a message names


class LabelOptions(NamedTuple):
    """Meaning of the labels of a table.

    Attributes:
        class_names: name of each class, indexed by label; None to take them from the table.
        columns: the column of the labels if it is not ``label``, or one column of zeros and ones
            for each class; None for ``label``.
        task: kind of the labels; None to derive it from them.
        targets: columns of times and values.
    """

    class_names: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    task: MILTask | None = None
    targets: TargetOptions = TargetOptions()


class SlideLabels(NamedTuple):
    """Labels of S slides.

    Attributes:
        labels: (S,) classes, or (S, C) zeros and ones for a multilabel task, -1 where unknown; or
            float64 (S, 2) time and event, or (S, T) values, NaN where unknown.
        fields: the labels of each slide as written in the file, in the order of ``columns``.
        columns: the columns that hold them.
        class_names: name of each class.
        faults: (number of the slide, reason, remedy) of each wrong label.
    """

    labels: npt.NDArray[Any]
    fields: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...]
    class_names: tuple[str, ...]
    faults: tuple[tuple[int, str, str], ...]


def read_labels(
    path: Path, header: Sequence[str], rows: Sequence[Mapping[str, str]], options: LabelOptions
) -> SlideLabels:
    """Return the labels of the slides.

    Warns of classes whose names differ only in case or spaces. A class that is probably a mistyped
    name of another one is a fault, unless the options name the classes (A470).

    Args:
        path: the table, for messages.
        header: its columns.
        rows: fields of each slide by column.
        options: meaning of the labels.

    Raises:
        DataProblems: a column is missing, there are fewer than two classes, the labels are
            continuous, or nothing can be learnt from times or values.
        ValueError: options contradict each other or the task.
    """
    targets = options.targets._replace(task=options.task)
    targets.check()
    if targets.apply:
        if options.columns is not None or options.class_names is not None:
            name = "label_columns" if options.columns is not None else "class_names"
            raise ValueError(f"{path}: {name} has no meaning for {options.task}; leave it out")
        found, wrong = read_targets(path, header, rows, targets)
        written = tuple(tuple(row.get(name, "") for name in targets.columns) for row in rows)
        return SlideLabels(found, written, targets.columns, (), tuple(wrong))
    columns = _label_columns(path, header, options)
    fields = tuple(tuple(row.get(name, "") for name in columns) for row in rows)
    names = options.class_names
    if not any(text for texts in fields for text in texts):
        shape = (len(rows), len(names or ())) if options.task == "multilabel" else (len(rows),)
        return SlideLabels(np.full(shape, -1), fields, columns, tuple(names or ()), ())
    if len(columns) > 1:
        labels, shown, faults = _columns_of_classes(path, columns, fields, options)
    else:
        texts = [texts[0] for texts in fields]
        labels, shown, faults = _column_of_names(path, columns[0], texts, options)
    return SlideLabels(labels, fields, columns, tuple(shown), tuple(faults))


_Read = tuple[IntArray, list[str], list[tuple[int, str, str]]]  # labels, names, faults


def _label_columns(path: Path, header: Sequence[str], options: LabelOptions) -> tuple[str, ...]:
    """Return the columns of the labels, ``label`` if those that are named are not needed."""
    wanted = tuple(options.columns or (LABEL,))
    missing = [name for name in wanted if name not in header]
    if options.columns is None:
        return (LABEL,)
    if len(missing) == len(wanted) and options.class_names is not None:
        # As for prediction: a checkpoint names the columns of its training and knows its classes.
        if LABEL not in header:
            rank_zero_warn(f"{path}: no column {', '.join(wanted)}, so the slides have no labels")
        return (LABEL,)
    twice = [name for name, count in Counter(wanted).items() if count > 1]
    if twice:
        raise ValueError(
            f"{path}: label_columns names {', '.join(twice)} twice; name each column once"
        )
    if missing:
        near = get_close_matches(missing[0], header, n=1)
        hint = f"did you mean {near[0]}?" if near else "name columns of the table"
        reason = (
            f"column {', '.join(missing)} of label_columns is missing; the file has "
            f"{', '.join(header)}"
        )
        raise DataProblems([Problem(path, None, None, reason, hint)])
    if len(wanted) > 1 and options.task in ("binary", "multiclass", "ordinal"):
        raise ValueError(
            f"{path}: {len(wanted)} label_columns hold several classes a slide, which does not fit "
            f"the task {options.task}; use multilabel, or name a single column"
        )
    names = options.class_names
    if len(wanted) > 1 and names is not None and len(names) != len(wanted):
        raise ValueError(
            f"{path}: {len(wanted)} label_columns, but {len(names)} class_names; give one name for "
            "each column, in the same order"
        )
    return wanted


def _columns_of_classes(
    path: Path,
    columns: Sequence[str],
    fields: Sequence[Sequence[str]],
    options: LabelOptions,
) -> _Read:
    values = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}
    labels = np.array([[values.get(text, -1) for text in texts] for texts in fields])
    faults = []
    for slide, place in np.argwhere(labels < 0).tolist():
        text = fields[slide][place]
        reason = f"{columns[place]} is {text!r}" if text else f"{columns[place]} is empty"
        faults.append((slide, reason, "use 1 if the slide has the class, else 0"))
    if not faults and options.task is None and (labels.sum(axis=1) == 1).all():
        reason = f"every slide has exactly one of the classes {', '.join(columns)}"
        remedy = (
            "write its name into one column label for a task with one class a slide, or set "
            "task: multilabel"
        )
        raise DataProblems([Problem(path, None, None, reason, remedy)])
    absent = [name for name, found in zip(columns, (labels == 1).any(axis=0), strict=True)
              if not found]  # fmt: skip
    if not faults and absent and options.class_names is None:
        reason = f"no slide has the class {', '.join(absent)}"
        remedy = "leave the column out, or name all classes by class_names"
        raise DataProblems([Problem(path, None, None, reason, remedy)])
    return labels, list(options.class_names or columns), faults


def _column_of_names(path: Path, column: str, texts: Sequence[str], options: LabelOptions) -> _Read:
    names = options.class_names
    if names is None:
        _refuse_continuous(path, column, texts)
        if options.task == "ordinal" and not all(map(str.isdecimal, filter(None, texts))):
            words = ", ".join(sorted({text for text in texts if text})[:_SHOWN])
            reason = f"column {column} has grades in words ({words}), whose order is unknown"
            remedy = "name them from the lowest to the highest by --data.class_names"
            raise DataProblems([Problem(path, None, None, reason, remedy)])  # A770
    split = options.task == "multilabel" or (
        options.task is None and any(_SEPARATOR in text for text in texts)
    )
    parts = [_parts(text) if split else [text] * bool(text) for text in texts]
    mistyped = misspelt(parts) if names is None else {}
    if mistyped:
        names = sorted({part for several in parts for part in several} - set(mistyped))
    labels, shown, faults = (_several_classes if split else _one_class)(texts, names)
    if len(shown) < 2:
        reason = f"all slides have label {shown[0]!r}" if shown else "there is no class"
        remedy = "at least two classes are needed; name them by class_names"
        found = [*mistyped.values(), (reason, remedy)]
        raise DataProblems([Problem(path, None, None, *each) for each in found])
    told = {next(at for at, several in enumerate(parts) if name in several): why
            for name, why in mistyped.items()}  # fmt: skip
    faults = [fault for fault in faults if fault[0] not in told]
    faults += [(slide, *why) for slide, why in told.items()]
    for problem in similar_names(path, shown, labels) if options.class_names is None else ():
        rank_zero_warn(str(problem))
    return labels, shown, faults


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(_SEPARATOR) if part.strip()]


def _several_classes(texts: Sequence[str], class_names: Sequence[str] | None) -> _Read:
    """Read ``a;b``."""
    parts = [_parts(text) for text in texts]
    owner = np.repeat(np.arange(len(texts)), [len(part) for part in parts])
    flat = [part for several in parts for part in several]
    numbers, names, shown = _classes(flat, class_names)
    labels = np.zeros((len(texts), len(names)), dtype=np.int64)
    good = numbers >= 0
    labels[owner[good], numbers[good]] = 1
    faults = [_fault(int(owner[at]), flat[at], shown) for at in np.flatnonzero(~good).tolist()]
    empty = f"label is empty; write {_SEPARATOR} for a slide with none of the classes"
    faults += [(at, empty, "or remove its line") for at, text in enumerate(texts) if not text]
    return labels, list(class_names or names), faults


def _one_class(texts: Sequence[str], class_names: Sequence[str] | None) -> _Read:
    labels, names, shown = _classes(texts, class_names)
    if class_names is None and names == ["0", "1"]:
        shown = ["negative", "positive"]
    wrong = np.flatnonzero(labels < 0).tolist()
    return labels, shown, [_fault(at, texts[at], shown) for at in wrong]


def _classes(
    texts: Sequence[str], class_names: Sequence[str] | None
) -> tuple[IntArray, list[str], list[str]]:
    """Return (n,) labels, -1 where wrong, the names that the texts use, and those to show."""
    found = sorted({text for text in texts if text})
    numbers = bool(found) and all(text.isdecimal() for text in found)
    if class_names is None:
        names = shown = found
        if numbers:
            present = {int(text) for text in found}
            # The classes end at the first unused number: {0, 1, 7} are two classes and a fault.
            end = next(c for c in range(len(present) + 1) if c not in present)
            names = shown = [str(c) for c in range(max(2, end))]
    else:
        shown = names = list(class_names)
        if numbers and not set(found) <= set(names):
            names = [str(c) for c in range(len(shown))]
    place = {name: number for number, name in enumerate(names)}
    canonical = [str(int(text)) if text.isdecimal() and text not in place else text
                 for text in texts]  # fmt: skip
    return np.array([place.get(text, -1) for text in canonical], dtype=np.int64), names, shown


def _fault(slide: int, text: str, names: Sequence[str]) -> tuple[int, str, str]:
    if not text:
        remedy = "label the slide or remove its line; either all slides have labels or none"
        return slide, "label is empty", remedy
    reason = f"label {text!r} is not one of the {len(names)} classes"
    return slide, reason, f"use {', '.join(names[:10])} or the numbers 0 to {len(names) - 1}"


def _refuse_continuous(path: Path, column: str, texts: Sequence[str]) -> None:
    """Refuse labels of which half or more are numbers with a fraction (A402).

    Raises:
        DataProblems: so many are.
    """
    found = [text for text in texts if _has_fraction(text)]
    fractions, count = list(dict.fromkeys(found)), len(found)
    if not found or 2 * count < sum(map(bool, texts)):
        return
    more = ", ..." if len(fractions) > _SHOWN else ""
    reason = (
        f"column {column} has numbers such as {', '.join(fractions[:_SHOWN])}{more} "
        f"({count} slides, {len(fractions)} different ones), which are no classes"
    )
    remedy = (
        "write names of classes or whole numbers from 0, such as 1 above a cut-off; values are "
        "predicted by --data.task regression --data.target_columns; if these are names, list them "
        "in class_names"
    )
    raise DataProblems([Problem(path, None, None, reason, remedy)])


def _has_fraction(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and value != math.floor(value)
