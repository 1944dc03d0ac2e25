"""Lines of a table of bag predictions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from structures import DataProblems, Problem

PATIENTS = ("patient_id", "patient", "group")  # column of the patient; the first one found is used


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Return the header of a CSV file and its lines with their numbers.

    Raises:
        DataProblems: the file is missing or is no CSV text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = [(reader.line_num, row) for row in reader]
            return list(reader.fieldnames or []), rows
    except FileNotFoundError:
        reason, remedy = "no such file", "give the path of a table of bag predictions"
    except OSError as error:
        reason, remedy = f"cannot be read ({error.strerror})", "give the path of a CSV file"
    except (UnicodeDecodeError, csv.Error) as error:
        reason, remedy = f"is not CSV text ({error})", "write it as UTF-8 with commas"
    raise DataProblems([Problem(path, None, None, reason, remedy)])


def refuse_repeats(path: Path, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """Refuse a table of several repeats of a cross-validation, in which each bag occurs again."""
    repeats = sorted({str(row["repeat"]) for _, row in rows if row.get("repeat")})
    if len(repeats) > 1:
        reason = f"has the repeats {', '.join(repeats[:10])} of a cross-validation"
        remedy = "keep the lines of one repeat"
        raise DataProblems([Problem(path, None, None, reason, remedy)])


def refuse_folds(path: Path, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """Refuse a table of times of several folds: risks of their models are not comparable (A631)."""
    folds = sorted({str(row["fold"]) for _, row in rows if row.get("fold")})
    if len(folds) > 1:
        listed = ", ".join(folds[:10])
        reason = f"has the folds {listed} of a cross-validation, each with risks of its own model"
        remedy = "keep the lines of one fold; mil-cv scores every fold and gives the mean"
        raise DataProblems([Problem(path, None, None, reason, remedy)])


def number(text: str | None) -> float | None:
    """Return the number in a cell, or None."""
    try:
        return float(text or "")
    except ValueError:
        return None


def no_bags(path: Path, skipped: Sequence[Problem]) -> DataProblems:
    """Return the error of a table without bags, or without those that were left out."""
    reason = "no bag is left" if skipped else "no bags in the file"
    return DataProblems([*skipped, Problem(path, None, None, reason, "write one line per bag")])
