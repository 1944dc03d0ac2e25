"""Times and values in the arrays of an npz file of bags.

- ``time`` and ``event`` (B,): times, and 1 if the event happened then, 0 for a censored time.
- ``y`` (B, T) and ``target_names`` (T,): values, NaN where unknown, and their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.mil.targets.checks import useless_targets
from datamodules.mil.targets.options import TargetOptions
from structures import Problem

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]


def target_names(content: Mapping[str, Array]) -> tuple[str, ...]:
    """Return the names of the values in a file; empty without ``target_names``."""
    return tuple(str(name) for name in content.get("target_names", ()))


def target_labels(content: Mapping[str, Array], options: TargetOptions) -> FloatArray | None:
    """Return (B, 2) times and events or (B, T) values of a file without faults; None without any.

    Values are in the order of ``options.target_columns``.
    """
    if options.has_times:
        if "time" not in content:
            return None
        columns = [content["time"], content["event"]]
        return np.stack([column.astype(np.float64) for column in columns], axis=1)
    if "y" not in content:
        return None
    names = target_names(content)
    chosen = [names.index(name) for name in options.columns]
    labels: FloatArray = content["y"].astype(np.float64)[:, chosen]
    return labels


def target_problems(
    path: Path, content: Mapping[str, Array], options: TargetOptions
) -> list[Problem]:
    """Return the faults of times or values: of the file, or of bags, whose number is ``item``."""
    return list(_shape_problems(path, content, options)) or list(
        _value_problems(path, content, options)
    )


def _shape_problems(
    path: Path, content: Mapping[str, Array], options: TargetOptions
) -> Iterator[Problem]:
    def fault(reason: str, remedy: str = "see docs/data.md for the layout") -> Problem:
        return Problem(path, None, None, reason, remedy, kind="bag")

    wanted = ("time", "event") if options.has_times else ("y", "target_names")
    missing = [name for name in wanted if name not in content]
    if missing:
        if len(missing) < len(wanted) or options.labels_needed:
            reason = f"array {', '.join(missing)} is missing; the file has {sorted(content)}"
            yield fault(f"{reason}, which does not fit the task {options.task}")
        return
    if options.has_times:
        shapes = [content[name].shape for name in wanted]
        if any(content[name].dtype.kind not in "iufb" for name in wanted):
            yield fault("time and event must hold numbers")
        elif shapes[0] != shapes[1] or len(shapes[0]) != 1 or not shapes[0][0]:
            yield fault(f"time and event must be (bags,), got {shapes[0]} and {shapes[1]}")
        return
    labels, names = content["y"], target_names(content)
    if labels.dtype.kind not in "iufb" or labels.ndim != 2 or not labels.size:
        yield fault(f"y must be (bags, targets) numbers, got {labels.shape} {labels.dtype}")
    elif len(names) != labels.shape[1] or len(set(names)) < len(names):
        yield fault(f"target_names {list(names)} must name each of {labels.shape[1]} columns of y")
    elif absent := [name for name in options.columns if name not in names]:
        remedy = f"the file has the targets {', '.join(names)}"
        yield fault(f"there is no target {', '.join(absent)}", remedy)


def _value_problems(
    path: Path, content: Mapping[str, Array], options: TargetOptions
) -> Iterator[Problem]:
    labels = target_labels(content, options)
    if labels is None:
        return
    problem = partial(Problem, path)
    if options.has_times:
        time, event = labels.T
        bad_time, bad_event = ~(np.isfinite(time) & (time >= 0)), (event != 0) & (event != 1)
        remedy = "store a time of at least 0"
        for bag in np.flatnonzero(bad_time).tolist():
            yield problem(bag, None, f"time is {time[bag]:g}", remedy, kind="bag")
        remedy = "store 1 if the event happened at that time, 0 if the time is censored"
        for bag in np.flatnonzero(bad_event).tolist():
            yield problem(bag, None, f"event is {event[bag]:g}", remedy, kind="bag")
        clean = not (bad_time.any() or bad_event.any())
    else:
        infinite = np.isinf(labels)
        for bag, place in np.argwhere(infinite).tolist():
            reason = f"{options.columns[place]} is {labels[bag, place]:g}"
            yield problem(bag, None, reason, "store a number, or NaN if unknown", kind="bag")
        clean = not infinite.any()
    if clean and options.labels_needed:
        for reason, remedy in useless_targets(labels, options):
            yield problem(None, None, reason, remedy, kind="bag")


def with_classes(content: Mapping[str, Array], options: TargetOptions) -> dict[str, Array]:
    """Return the content with a class of 0 for each bag in place of its target, for other checks.

    Bags without targets have no ``y``.
    """
    rest = {name: array for name, array in content.items() if name != "y"}
    name = "time" if options.has_times else "y"
    if name in content:
        rest["y"] = np.zeros(len(content[name]), dtype=np.int64)
    return rest
