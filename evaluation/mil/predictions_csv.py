"""Reading and writing tables of bag predictions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.mil.collector import BagScores
from evaluation.mil.csv_rows import PATIENTS, no_bags, number, read_rows, refuse_repeats
from evaluation.mil.metrics import BagTable, predicted_classes
from evaluation.targets.bags import TargetPredictions
from formats.files import write_csv
from structures import BadDataPolicy, DataProblems, MILTask, Problem, settle

_NEEDS = "the file needs bag_id, label and score, or score_<class> for each class"


class BagPredictions(NamedTuple):
    """Predictions of bags, from a checkpoint or from a table.

    Attributes:
        scores: one row per bag.
        task: task of the scores.
        problems: problems of the bags or lines that were left out.
        classes: name of each class as in ``score_<class>`` of a table; empty for a binary task and
            for a checkpoint.
        threshold: decision threshold chosen in the validation of the checkpoint, or that of the
            column ``threshold`` of a table; None if it is not known.
        files: the files that were read.
        target: the predictions where the target is a time, values or a grade, else None.
        names: name of each class of a checkpoint; may be empty.
    """

    scores: BagScores
    task: MILTask
    problems: tuple[Problem, ...] = ()
    classes: tuple[str, ...] = ()
    threshold: float | None = None
    files: tuple[Path, ...] = ()
    target: TargetPredictions | None = None
    names: tuple[str, ...] = ()


class _Layout(NamedTuple):
    """Columns of labels, scores and patients."""

    labels: list[str]
    scores: list[str]
    patient: str | None

    @property
    def task(self) -> MILTask:
        if self.labels != ["label"]:
            return "multilabel"
        return "binary" if len(self.scores) == 1 else "multiclass"

    @property
    def classes(self) -> int:
        """Number of values that a label may have."""
        return len(self.scores) if self.task == "multiclass" else 2


class _Line(NamedTuple):
    bag: str
    labels: list[int]
    scores: list[float]
    patient: str


def read_bag_csv(
    path: Path,
    policy: BadDataPolicy = "error",
    *,
    repeated: bool = False,
    patients: bool = False,
    unlabelled: bool = False,
) -> BagPredictions:
    """Read predictions in the format of `write_bag_csv`.

    Args:
        path: CSV with ``bag_id`` and either ``label`` and ``score`` (binary: probability of class
            1), ``label`` and one ``score_<class>`` column per class, or one ``label_<class>`` and
            one ``score_<class>`` column per class (multilabel). A column ``patient_id`` (or
            ``patient`` or ``group``) keeps the bags of a patient together in the bootstrap; it is
            ignored with a warning if the patient of a bag is missing. A column ``threshold`` with
            the same probability in every line is the threshold; other columns are ignored.
        policy: ``skip`` leaves out faulty lines.
        repeated: whether a bag occurs once for each value of a column ``repeat``.
        patients: whether every bag needs a patient.
        unlabelled: whether a label may be empty, which becomes -1.

    Raises:
        DataProblems: columns are missing, the file has no bags, or a line is wrong and the policy
            is ``error``: a bag occurs twice, a label is missing or not a class, a score is
            missing, not a number or outside [0, 1]; or, if they are needed, a patient is missing.
    """
    header, rows = read_rows(path)
    layout = _layout(path, header, patients)
    if not repeated:
        refuse_repeats(path, rows)
    lines: list[_Line] = []
    thresholds: set[float | None] = set()
    problems: list[Problem] = []
    seen: dict[str | None, set[str]] = {}  # bags by repeat
    for line_number, row in rows:
        others = seen.setdefault(row.get("repeat") if repeated else None, set())
        if unlabelled:
            row |= {name: row.get(name) or "-1" for name in layout.labels}
        faults = list(_faults(row, layout, others, -1 if unlabelled else 0))
        if patients and not row.get(str(layout.patient)):
            faults.append((f"{layout.patient} is missing", "name the patient"))
        bag = row.get("bag_id") or None
        problems += [Problem(path, bag, line_number, *f, kind="bag", part="line") for f in faults]
        if bag is not None:
            others.add(bag)
        if not faults:
            lines.append(_parsed(row, layout))
            thresholds.add(number(row.get("threshold")))
    skipped = settle(problems, policy)
    if not lines:
        raise no_bags(path, skipped)
    unknown = sum(not line.patient for line in lines)
    if layout.patient and 0 < unknown < len(lines):
        found = f"{path}: {unknown} of {len(lines)} bags have no {layout.patient}"
        warnings.warn(f"{found}, so each bag is treated as a separate patient", stacklevel=2)
    names = tuple(c.removeprefix("score_") for c in layout.scores if c != "score")
    threshold = thresholds.pop() if len(thresholds) == 1 else None
    threshold = threshold if threshold is not None and 0 <= threshold <= 1 else None
    return BagPredictions(_scores(lines, layout), layout.task, skipped, names, threshold, (path,))


class Decisions(NamedTuple):
    """How the scores of bags become predictions.

    Attributes:
        task: task of the scores.
        threshold: probability from which a class counts as present (``binary``, ``multilabel``).
        class_names: name of each class, indexed by label; empty for numbers.
    """

    task: MILTask
    threshold: float = 0.5
    class_names: Sequence[str] = ()


def write_bag_csv(path: Path, scores: BagScores, decisions: Decisions) -> None:
    """Write ``bag_id,label,score[,patient_id],prediction,threshold`` in full precision.

    A binary task has one score, the positive probability; otherwise there is a column
    ``score_<class>`` for each class, in the order of the labels. A multilabel task also has the
    columns ``label_<class>`` and ``prediction_<class>``. An unknown label (negative) is left empty,
    and so is the threshold of a multiclass task, which decides for the most probable class. The
    patient is written if it is known for the bags.
    """
    count, several = len(scores.bag_ids), decisions.task == "multilabel"
    labels, columns = scores.labels.reshape(count, -1), scores.probabilities.reshape(count, -1)
    decided = predicted_classes(
        BagTable(scores.labels, scores.probabilities, decisions.task), decisions.threshold
    ).reshape(count, -1)
    names = _column_names(decisions.class_names, columns.shape[1])
    header = [
        "bag_id",
        *_named("label", names, several),
        *_named("score", names, decisions.task != "binary"),
        *["patient_id"] * bool(scores.groups),
        *_named("prediction", names, several),
        "threshold",
    ]
    patients = [[group] for group in scores.groups] or [[]] * count
    threshold = "" if decisions.task == "multiclass" else repr(float(decisions.threshold))
    rows = (
        [
            bag,
            *("" if value < 0 else value for value in label),
            *map(repr, row),
            *patient,
            *prediction,
            threshold,
        ]
        for bag, label, row, patient, prediction in zip(
            scores.bag_ids,
            labels.tolist(),
            columns.tolist(),
            patients,
            decided.tolist(),
            strict=True,
        )
    )
    write_csv(path, header, rows)


def _column_names(class_names: Sequence[str], count: int) -> list[str]:
    """Return names that `read_bag_csv` takes for classes: numbers stand for themselves (A84)."""
    numbers = [str(c) for c in range(count)]
    names = list(class_names)
    if len(set(names)) != count or len(names) != count or "" in names:
        return numbers
    return numbers if all(map(str.isdecimal, names)) else names


def _named(name: str, classes: Sequence[str], several: bool) -> list[str]:
    return [f"{name}_{c}" for c in classes] if several else [name]


def _layout(path: Path, header: Sequence[str], patients: bool) -> _Layout:
    scores = [c for c in header if c == "score" or c.startswith("score_")]
    labels = [c for c in header if c == "label" or c.startswith("label_")]
    lacking = [name for name in ("bag_id", "label", "score") if not _has(name, header)]
    faults = []
    if lacking:
        faults.append((f"column {', '.join(lacking)} missing", _NEEDS))
    for name in sorted({name for name in header if list(header).count(name) > 1}):
        faults.append((f"column {name} occurs twice", "remove one"))
    if "score" in scores and len(scores) > 1:
        faults.append(("has both score and score_<class> columns", "keep only one kind"))
    if len(scores) == 1 and scores != ["score"] and labels == ["label"]:
        faults.append((f"{scores[0]} is the only score", "name the column of class 1: score"))
    numbers = [c.removeprefix("score_") for c in scores]
    # A84
    if all(map(str.isdecimal, numbers)) and numbers != [str(c) for c in range(len(scores))]:
        reason = f"score columns are {', '.join(scores)}"
        faults.append((reason, "number the classes from 0, in order and without gaps"))
    wanted = [f"label_{c.removeprefix('score_')}" for c in scores]
    if labels and labels != ["label"] and sorted(labels) != sorted(wanted):
        reason = f"label columns {', '.join(labels)} don't match {', '.join(scores)}"
        faults.append((reason, "write label_<class> and score_<class> for the same classes"))
    patient = next((name for name in PATIENTS if name in header), None)
    if patients and patient is None:
        faults.append((f"column {PATIENTS[0]} missing", "name the patient of each bag in it"))
    if faults:
        raise DataProblems([Problem(path, None, None, *fault) for fault in faults])
    return _Layout(labels if labels == ["label"] else wanted, scores, patient)


def _has(name: str, header: Sequence[str]) -> bool:
    return any(c == name or (name != "bag_id" and c.startswith(f"{name}_")) for c in header)


def _faults(
    row: dict[str, Any], layout: _Layout, seen: set[str], least: int
) -> Iterator[tuple[str, str]]:
    """Yield reason and remedy of every fault of a line."""
    if None in row:
        yield "has more values than there are columns", "quote values that contain commas"
    bag = row.get("bag_id")
    if not bag:
        yield "has no bag_id", "name the bag"
    elif bag in seen:
        yield f"bag {bag} occurs more than once", "keep one line per bag"
    for name in layout.labels:
        label = number(row.get(name))
        if not row.get(name):
            yield f"{name} is missing", "bags without a label cannot be scored: add or remove it"
        elif label is None or label not in range(least, layout.classes):
            allowed = f"with {len(layout.scores)} score column(s) it is 0 to {layout.classes - 1}"
            yield f"{name} is {row[name]!r}", allowed
    for name in layout.scores:
        score = number(row.get(name))
        if not row.get(name):
            yield f"{name} is missing", "write a probability in [0, 1]"
        elif score is None or not 0 <= score <= 1:
            yield f"{name} is {row[name]!r}", "scores are probabilities in [0, 1]"


def _parsed(row: dict[str, Any], layout: _Layout) -> _Line:
    labels = [int(float(row[name])) for name in layout.labels]
    scores = [float(row[name]) for name in layout.scores]
    return _Line(
        row["bag_id"], labels, scores, (row.get(layout.patient) or "") if layout.patient else ""
    )


def _scores(lines: Sequence[_Line], layout: _Layout) -> BagScores:
    labels = np.array([line.labels for line in lines], dtype=np.int64)
    table = np.array([line.scores for line in lines], dtype=np.float64)
    patients = tuple(line.patient for line in lines)
    return BagScores(
        bag_ids=tuple(line.bag for line in lines),
        index=np.arange(len(lines)),
        labels=labels if layout.task == "multilabel" else labels[:, 0],
        probabilities=table[:, 0] if layout.task == "binary" else table,
        groups=patients if all(patients) else (),
    )
