"""Cells of scores: the metrics of a model at each corruption and severity, and their CSV files.

A file has the columns ``model,corruption,severity,task,metric,value`` and a row for each metric of
a cell. The clean cell is ``clean`` at severity 0, that of another data set ``domain:NAME`` at 0;
all others have severities 1 to 5. Values are fractions. A metric without a value, such as the AP of
large objects where the data have none, has no row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.mil.csv_rows import number, read_rows
from evaluation.mil.metrics import METRICS as CLASS_METRICS
from evaluation.robustness.names import CLEAN, DOMAIN, SEVERITIES, is_graded
from evaluation.targets.scores import METRICS as TARGET_METRICS
from structures import DataProblems, Problem

Place = tuple[str, int]  # corruption and severity

COLUMNS = ("model", "corruption", "severity", "task", "metric", "value")
_AP = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
_BAG = (name for names in (CLASS_METRICS, *TARGET_METRICS.values()) for name in names)
METRICS: dict[str, tuple[str, ...]] = {
    "segm": _AP,
    "box": _AP,
    "bag": tuple(dict.fromkeys(name.removeprefix("bag_") for name in _BAG)),  # A789
}
_SIGNED = {"kappa", "quadratic_kappa", "pearson", "spearman", "r2"}  # at most 1
_UNBOUNDED = {
    "mae", "rmse",  # in the unit of the target
    "ibs",  # weighted by the censoring of the training bags, which may be heavier: A860
}  # fmt: skip
_ROUNDING = 1e-6  # a mean of ones may exceed 1 by as much


class Grid(NamedTuple):
    """The cells of one model.

    Attributes:
        file: the file that has them.
        cells: (corruption, severity) -> value by the name of the metric, task first, such as
            ``segm_map_50`` or ``bag_auroc``; in the order of the file.
    """

    file: Path
    cells: dict[Place, dict[str, float]]


def metric_names(task: str) -> tuple[str, ...]:
    """Return the metrics of a task with the task before them, as in JSON.

    >>> metric_names("segm")[:2], metric_names("bag")[:2]
    (('segm_map', 'segm_map_50'), ('bag_auroc', 'bag_auprc'))
    """
    return tuple(f"{task}_{metric}" for metric in METRICS[task])


def places(corruptions: Iterable[str], severities: Iterable[int] = SEVERITIES) -> list[Place]:
    """Return the clean cell and those of the corruptions.

    >>> places(["fog"], [1, 5])
    [('clean', 0), ('fog', 1), ('fog', 5)]
    """
    levels = tuple(severities)
    return [(CLEAN, 0), *((name, level) for name in corruptions for level in levels)]


def known_values(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a cell that have a value and a row, in the order of `METRICS`.

    Args:
        metrics: value by name, such as ``segm_map`` or ``bag_auroc``; others, such as average
            recall, are left out, and so is NaN.

    Raises:
        ValueError: a value is outside the range of its metric.
    """
    found = {}
    for task in METRICS:
        for name in metric_names(task):
            value = float(metrics.get(name, math.nan))
            if not math.isnan(value):
                if fault := _range_fault(task, name.removeprefix(f"{task}_"), value):
                    raise ValueError(f"{name} is {value}; {fault}")
                found[name] = value
    return found


def read_grids(files: Sequence[Path]) -> dict[str, Grid]:
    """Read tables of cells.

    Args:
        files: the tables; one without a column ``model`` has the model named like the file, with
            as many folders before it as tell files of one name apart.

    Returns:
        The cells of each model, in the order of the files.

    Raises:
        DataProblems: a file is missing, has no cells or lacks a column; a row has an unknown task
            or metric, a severity other than 1 to 5 (0 where ``clean`` or a domain), or no finite
            value in the range of its metric; a value is given twice; or two files have a model of
            one name.
    """
    grids: dict[str, Grid] = {}
    problems: list[Problem] = []
    names = _file_names(files)
    for path in files:
        try:
            found = _read(path, names[path])
        except DataProblems as error:
            problems += error.problems
            continue
        for model, grid in found.items():
            if model in grids:
                reason = f"is also in {grids[model].file}"
                remedy = "rename it in the column model, or the file if it has no such column"
                problems.append(Problem(path, model, None, reason, remedy, kind="model"))
            else:
                grids[model] = grid
    if problems:
        raise DataProblems(problems)
    return grids


def _file_names(files: Sequence[Path]) -> dict[Path, str]:
    """Return the name of each file without its ending, where needed with folders before it."""
    stems = Counter(path.stem for path in files)
    same = [path.absolute().with_suffix("").parts for path in files if stems[path.stem] > 1]
    lengths = range(1, max(map(len, same), default=0))
    count = next((n for n in lengths if len({p[-n:] for p in same}) == len(same)), 1)
    return {
        path: path.stem
        if stems[path.stem] == 1
        else "/".join(path.absolute().with_suffix("").parts[-count:])
        for path in files
    }


def _read(path: Path, model: str) -> dict[str, Grid]:
    header, rows = read_rows(path, "a table of cells")
    problems = [Problem(path, None, None, *fault) for fault in _header_faults(header)]
    if problems:
        raise DataProblems(problems)
    grids: dict[str, Grid] = {}
    first: dict[tuple[str, ...], int] = {}  # model, corruption, severity, metric -> line
    for line, row in rows:
        cell = {"model": model} | {name: text.strip() for name, text in _texts(row)}
        faults = list(_faults(row, cell))
        if not faults:
            level = int(float(cell["severity"]))
            name = f"{cell['task']}_{cell['metric'].removeprefix(cell['task'] + '_')}"
            key = (cell["model"], cell["corruption"], str(level), name)
            if key in first:
                reason = f"{name} of {' '.join(key[:3])} is in line {first[key]}, too"
                faults.append((reason, "keep one of the two lines"))
            else:
                first[key] = line
                grid = grids.setdefault(cell["model"], Grid(path, {}))
                grid.cells.setdefault((key[1], level), {})[name] = float(cell["value"])
        problems += [Problem(path, line, None, *fault, kind="line") for fault in faults]
    if not rows:
        problems = [Problem(path, None, None, "has no cells", "write a line for each value")]
    if problems:
        raise DataProblems(problems)
    return grids


def _header_faults(header: Sequence[str]) -> Iterator[tuple[str, str]]:
    needed = f"the file needs {','.join(COLUMNS[1:])}, and model for several models"
    lacking = [name for name in COLUMNS[1:] if name not in header]
    if lacking:
        given = ",".join(header) or "nothing"
        yield f"has no column {', '.join(lacking)} but {given}", needed
    twice = [name for name, count in Counter(header).items() if count > 1 and name in COLUMNS]
    if twice:
        yield f"has the column {', '.join(twice)} twice", "keep one of them"


def _texts(row: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    for name, text in row.items():
        if name in COLUMNS and text is not None:
            yield name, text


def _faults(row: Mapping[Any, Any], cell: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield reason and remedy of what is wrong with a line."""
    if None in row:
        yield "has more values than the header has columns", "put a value with a comma in quotes"
        return
    empty = [name for name in COLUMNS if not cell.get(name)]
    if empty:
        yield f"has no {', '.join(empty)}", "complete the line or remove it"
        return
    yield from _place_faults(cell["corruption"], cell["severity"])
    task, metric = cell["task"], cell["metric"]
    if task not in METRICS:
        yield f"task is {task!r}", f"write {', '.join(METRICS)}"
        return
    if metric.removeprefix(f"{task}_") not in METRICS[task]:
        yield f"metric is {metric!r}", f"metrics of {task} are {', '.join(METRICS[task])}"
        return
    value = number(cell["value"])
    if value is None or not math.isfinite(value):
        remedy = "write a fraction such as 0.342, and no line for a metric without a value"
        yield f"value is {cell['value']!r}", remedy
    elif fault := _range_fault(task, metric.removeprefix(f"{task}_"), value):
        yield f"value is {cell['value']}", fault


def _place_faults(corruption: str, severity: str) -> Iterator[tuple[str, str]]:
    level = number(severity)
    if level not in (0, *SEVERITIES):
        yield f"severity is {severity!r}", "write 1 to 5, or 0 for clean"
    elif corruption == DOMAIN:
        yield f"{DOMAIN} has no name", f"write {DOMAIN}NAME"
    elif level and not is_graded(corruption):
        yield f"{corruption} has severity {severity}", f"write 0, the severity of {corruption}"
    elif not level and is_graded(corruption):
        yield f"{corruption} has severity 0", f"write 1 to 5; 0 is for {CLEAN} and {DOMAIN}NAME"


def _range_fault(task: str, metric: str, value: float) -> str:
    """Return what to write instead of a value outside the range of its metric, or nothing."""
    if math.isinf(value):
        return "write a finite number"
    if metric in _UNBOUNDED and task == "bag":
        return "" if value >= 0 else "write the error, which is not negative"
    if value > 1 + _ROUNDING:
        return "write fractions, not percent"
    if value < 0 and metric not in _SIGNED:
        return "the smallest value is 0; leave the line out where the metric has no value"  # A796
    return ""
