"""Detections on a slide as CSV without a header: ``probability,x,y``, in pixels of level 0.

This is the format in which CAMELYON16 took lesions; a slide without any is an empty file.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from formats.files import atomic_write
from structures import DataProblems, Problem

_SCORES = ("probability", "confidence", "score")  # names of the first column of a header
_ROW = "a row is probability,x,y, for example 0.93,51200,20480"


def write_detections(path: Path, rows: Iterable[Sequence[float]]) -> None:
    """Write the detections of a slide; the write is atomic, and no rows give an empty file.

    Args:
        path: the file, ``<slide_id>.csv``; missing folders are created.
        rows: probability in [0, 1] and the place (x, y) in pixels of level 0, written in full.

    Raises:
        ValueError: a value could not be read again, see `read_detections`.
    """
    lines = []
    for row in rows:
        values = [float(value) for value in row]
        if fault := _fault(values):
            raise ValueError(f"{path}: {fault}; {_ROW}")
        lines.append(",".join(repr(value).removesuffix(".0") for value in values) + "\n")
    with atomic_write(path) as file:
        file.write("".join(lines).encode())


def read_detections(path: Path) -> npt.NDArray[np.float64]:
    """Read the detections of a slide.

    Args:
        path: CSV of ``probability,x,y``; a header with these names in this order is passed over.

    Returns:
        (N, 3) of probability in [0, 1], x and y in pixels of level 0.

    Raises:
        DataProblems: the file is no CSV, or a row has not three numbers, a probability outside of
            [0, 1] or a negative place.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, [field.strip() for field in row]) for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        reason = f"cannot be read as CSV ({error})"
        raise DataProblems([Problem(path, None, None, reason, _ROW)]) from None
    if lines and _is_header(lines[0][1]):
        lines = lines[1:]
    rows, problems = [], []
    for number, fields in lines:
        values = [_number(field) for field in fields]
        if fault := _fault(values):
            reason = f"{fault} in {','.join(fields)!r}"
            problems.append(Problem(path, None, number, reason, _ROW, part="line"))
        rows.append(values)
    if problems:
        raise DataProblems(problems)
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _is_header(fields: Sequence[str]) -> bool:
    names = [field.lower() for field in fields]
    return len(names) == 3 and names[0] in _SCORES and (names[1][:1], names[2][:1]) == ("x", "y")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _fault(values: Sequence[float]) -> str | None:
    if len(values) != 3 or not all(map(math.isfinite, values)):
        return "not three numbers"
    if not 0 <= values[0] <= 1:
        return "the probability is not in [0, 1]"
    return None if min(values[1:]) >= 0 else "a place is negative"
