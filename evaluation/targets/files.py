"""Tables of bags whose target is a time or values.

    times    bag_id,time,event,risk,survival_<t>...[,patient_id]
    values   bag_id,target_<name>...,prediction_<name>...[,patient_id]

Numbers are in full precision and in the user's units. ``survival_<t>`` is the predicted probability
of surviving t: at the upper edges of the bins of a discrete-time model, and at the times that are
scored unless others are asked for, of a Cox model.  # A787
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.mil.collector import BagScores
from evaluation.mil.csv_rows import (
    PATIENTS,
    no_bags,
    number,
    read_rows,
    refuse_folds,
    refuse_repeats,
)
from evaluation.mil.predictions_csv import BagPredictions, read_bag_csv
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.censoring import FloatArray
from evaluation.targets.patients import MeanCurves
from evaluation.targets.survival_scores import default_times
from evaluation.targets.tables import BinnedCurves
from evaluation.targets.training_bags import TrainingBags
from formats.files import write_csv
from structures import BadDataPolicy, DataProblems, MILTask, Problem, settle
from structures.tasks import TIME_TASKS

_ROUNDING = 1e-9  # by which survival in a table may rise


def write_target_csv(
    path: Path,
    found: TargetPredictions,
    bags: TrainingBags | None = None,
    times: FloatArray | None = None,
) -> None:
    """Write a line for each bag; unknown labels are left empty.

    Args:
        path: the file.
        found: predictions of times or values.
        bags: training bags of times, whose event times are taken where none is known of the bags.
        times: those of ``survival_<t>`` of a Cox model, or None for the default.
    """
    patients = [[group] for group in found.groups] or [[]] * len(found.bag_ids)
    times = _own_times(found, bags, times) if found.task in TIME_TASKS else None
    columns = target_columns(found, times)
    header = ["bag_id", *columns, *["patient_id"] * bool(found.groups)]
    cells = zip(*columns.values(), strict=True)
    rows = zip(found.bag_ids, cells, patients, strict=True)
    write_csv(path, header, ([bag, *values, *patient] for bag, values, patient in rows))


def target_columns(found: TargetPredictions, times: FloatArray | None) -> dict[str, list[str]]:
    """Return the columns between ``bag_id`` and ``patient_id`` as texts, by name.

    Args:
        found: predictions of times or values.
        times: (T,) ascending times of ``survival_<t>``, of which 0 is left out; None for values.
    """
    return _of_values(found) if times is None else _of_times(found, times[times > 0])


def _of_times(found: TargetPredictions, times: FloatArray) -> dict[str, list[str]]:
    time, event = found.labels.T
    columns = {"time": _texts(time)}
    columns["event"] = ["" if np.isnan(value) else str(int(value)) for value in event]
    columns["risk"] = _texts(found.predictions)
    if found.curves is not None:
        survival = found.curves.at(times)
        columns |= {
            f"survival_{text(t)}": _texts(s) for t, s in zip(times, survival.T, strict=True)
        }
    return columns


def _own_times(
    found: TargetPredictions, bags: TrainingBags | None, wanted: FloatArray | None
) -> FloatArray:
    """Return the times of the columns of a table that is not one of several models."""
    # A mean of curves that are linear between the same edges is linear there, too.
    curves = found.curves.curves if isinstance(found.curves, MeanCurves) else found.curves
    if isinstance(curves, BinnedCurves):
        return curves.edges
    if wanted is not None:
        return wanted
    (time, event), known = found.labels.T, found.known
    times = default_times(time[known], event[known] == 1)
    if not times.size and bags is not None:
        times = default_times(bags.time, bags.event)
    return times


def _of_values(found: TargetPredictions) -> dict[str, list[str]]:
    names = found.names or tuple(str(n) for n in range(found.predictions.shape[1]))
    truth = zip(names, found.labels.T, strict=True)
    says = zip(names, found.predictions.T, strict=True)
    columns = {f"target_{name}": _texts(values) for name, values in truth}
    return columns | {f"prediction_{name}": _texts(values) for name, values in says}


def text(value: float) -> str:
    """Return a number in the fewest digits that give it back.

    >>> text(12.0), text(0.1)
    ('12', '0.1')
    """
    return repr(float(value)).removesuffix(".0")


def _texts(values: FloatArray) -> list[str]:
    return ["" if np.isnan(value) else repr(float(value)) for value in values]


class _Layout(NamedTuple):
    """Columns of a table.

    Attributes:
        task: ``discrete_time`` for times, or ``regression``.
        labels: columns of the labels.
        says: columns of the predictions, without survival.
        survival: columns of survival in the order of their times.
        times: these times.
        patient: column of the patients, or None.
    """

    task: MILTask
    labels: list[str]
    says: list[str]
    survival: list[str]
    times: list[float]
    patient: str | None


def read_predictions(
    path: Path,
    policy: BadDataPolicy = "error",
    *,
    patients: bool = False,
    task: MILTask | None = None,
    repeated: bool = False,
) -> BagPredictions:
    """Read a table of bags of any task, whose columns tell the task.

    Args:
        path: the file.
        policy: ``skip`` leaves out faulty lines.
        patients: whether every bag needs a patient.
        task: ``ordinal`` to take classes for grades in the order of their columns, or None.
        repeated: whether a bag occurs once for each value of a column ``repeat``.

    Raises:
        DataProblems: see `read_bag_csv`; a column of times or values is missing; or a line is
            wrong and the policy is ``error``: a time is negative or no number, an event is not 0
            or 1, a value is no number, or a prediction is missing. Values and grades may be
            unknown, that is empty. A table of times has several folds of a cross-validation.
    """
    header, rows = read_rows(path)
    kind: MILTask | None = None
    if "risk" in header or {"time", "event"} <= set(header):
        kind = "discrete_time"
    elif any(name.startswith("target_") for name in header):
        kind = "regression"
    if kind is not None and task is not None:
        what = "times" if kind == "discrete_time" else "values"
        reason = f"has the columns of {what}, not of {task}"
        raise _refusal(
            path, [(reason, "give a table of grades, or leave out --task if it is given")]
        )
    if kind is None:
        found = read_bag_csv(
            path, policy, repeated=repeated, patients=patients, unlabelled=task is not None
        )
        return found if task is None else _grades(path, found)
    if not repeated:
        refuse_repeats(path, rows)
        if kind == "discrete_time":
            refuse_folds(path, rows)
    layout = _layout(path, header, kind, patients)
    return _parsed(path, rows, layout, policy, patients=patients, repeated=repeated)


def _grades(path: Path, found: BagPredictions) -> BagPredictions:
    """Return predictions of classes as those of grades."""
    scores = found.scores
    if found.task != "multiclass":
        reason = f"has the columns of a {found.task} task"
        raise _refusal(path, [(reason, "write label and one score_<grade> for each grade")])
    target = TargetPredictions(
        "ordinal", scores.bag_ids, scores.labels, scores.probabilities,
        names=found.classes, groups=scores.groups,
    )  # fmt: skip
    return found._replace(task="ordinal", target=target)


def _refusal(path: Path, faults: Sequence[tuple[str, str]]) -> DataProblems:
    return DataProblems([Problem(path, None, None, *fault) for fault in faults])


def _layout(path: Path, header: list[str], task: MILTask, patients: bool) -> _Layout:
    faults, times = [], {}
    if task == "regression":
        names = [c.removeprefix("target_") for c in header if c.startswith("target_")]
        labels, says = ([f"{kind}_{n}" for n in names] for kind in ("target", "prediction"))
    else:
        labels, says = ["time", "event"], ["risk"]
        for column in header:
            if column.startswith("survival_"):
                found = number(column.removeprefix("survival_"))
                if found is None or not 0 < found < np.inf:
                    faults.append((f"column {column} names no time", "write survival_<time>"))
                else:
                    times[found] = column
    lacking = [name for name in ("bag_id", *labels, *says) if name not in header]
    if lacking:
        faults.append((f"column {', '.join(lacking)} missing", f"it needs {_needs(task)}"))
    for name in sorted({name for name in header if header.count(name) > 1}):
        faults.append((f"column {name} occurs twice", "remove one"))
    patient = next((name for name in PATIENTS if name in header), None)
    if patients and patient is None:
        faults.append((f"column {PATIENTS[0]} missing", "name the patient of each bag in it"))
    if faults:
        raise _refusal(path, faults)
    ordered = sorted(times)
    return _Layout(task, labels, says, [times[t] for t in ordered], ordered, patient)


def _needs(task: MILTask) -> str:
    if task == "regression":
        return "bag_id, target_<name> and prediction_<name> for each value"
    return "bag_id, time, event (1, or 0 for a censored bag) and risk"


def _faults(row: dict[str, Any], layout: _Layout, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield reason and remedy of every fault of a line."""
    if None in row:
        yield "has more values than there are columns", "quote values that contain commas"
    bag = row.get("bag_id")
    if not bag:
        yield "has no bag_id", "name the bag"
    elif bag in seen:
        yield f"bag {bag} occurs more than once", "keep one line per bag"
    yield from _label_faults(row, layout)
    for name in (*layout.says, *layout.survival):
        value = number(row.get(name))
        if value is None or not np.isfinite(value):
            yield f"{name} is {row.get(name)!r}", "write a finite number"
        elif name in layout.survival and not 0 <= value <= 1:
            yield f"{name} is {row[name]!r}", "survival is a probability in [0, 1]"
    survival = [number(row.get(name)) for name in layout.survival]
    pairs = itertools.pairwise(survival)
    if any(b - a > _ROUNDING for a, b in pairs if a is not None and b is not None):
        yield "survival rises with time", "survival cannot rise; check the columns survival_<time>"


def _label_faults(row: dict[str, Any], layout: _Layout) -> Iterator[tuple[str, str]]:
    values = [number(row.get(name)) for name in layout.labels]
    if layout.task == "regression":
        for name, value in zip(layout.labels, values, strict=True):
            if row.get(name) and (value is None or np.isinf(value)):
                yield f"{name} is {row[name]!r}", "write a number, or nothing if it is unknown"
        return
    time, event = values
    if time is None or not 0 <= time < np.inf:
        yield f"time is {row.get('time')!r}", "write a number of at least 0"
    if event not in (0, 1):
        yield f"event is {row.get('event')!r}", "write 1 for an event, 0 for a censored bag"


def _parsed(
    path: Path,
    rows: Sequence[tuple[int, dict[str, Any]]],
    layout: _Layout,
    policy: BadDataPolicy,
    *,
    patients: bool,
    repeated: bool,
) -> BagPredictions:
    kept, problems = [], []
    by_repeat: dict[str | None, set[str]] = {}
    for line, row in rows:
        seen = by_repeat.setdefault(row.get("repeat") if repeated else None, set())
        faults = list(_faults(row, layout, seen))
        if patients and not row.get(str(layout.patient)):
            faults.append((f"{layout.patient} is missing", "name the patient"))
        bag = row.get("bag_id") or None
        problems += [Problem(path, bag, line, *f, kind="bag", part="line") for f in faults]
        if bag is not None:
            seen.add(bag)
        if not faults:
            kept.append(row)
    skipped = settle(problems, policy)
    if not kept:
        raise no_bags(path, skipped)
    target = _target(kept, layout)
    scores = BagScores(
        bag_ids=target.bag_ids,
        index=np.arange(len(kept)),
        labels=target.labels,
        probabilities=target.predictions,
        groups=target.groups,
    )
    return BagPredictions(scores, layout.task, skipped, files=(path,), target=target)


def _target(rows: Sequence[dict[str, Any]], layout: _Layout) -> TargetPredictions:
    def table(names: Sequence[str]) -> FloatArray:
        cells = [[float(row[name] or "nan") for name in names] for row in rows]
        return np.array(cells, dtype=np.float64)

    says = table(layout.says)
    groups = tuple((row.get(layout.patient) or "") if layout.patient else "" for row in rows)
    curves = BinnedCurves(table(layout.survival), layout.times) if layout.survival else None
    return TargetPredictions(
        layout.task,
        tuple(row["bag_id"] for row in rows),
        table(layout.labels),
        says if layout.task == "regression" else says[:, 0],
        curves,
        tuple(n.removeprefix("target_") for n in layout.labels)
        if layout.task == "regression"
        else (),
        groups if all(groups) else (),
    )
