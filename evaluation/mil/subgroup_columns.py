"""Columns of tables by which bags are divided into subgroups, and their values for each bag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from evaluation.mil.csv_rows import PATIENTS, number, read_rows
from structures import DataProblems, Problem

MOST_NUMBERS, MOST_TEXTS = 20, 50  # subgroups of a column  # A755
_BAGS = ("bag_id", "slide_id")
_PATIENTS = (*PATIENTS, "case_id")
_NAMED = 3  # bags of a value that a message names


class ColumnTable(NamedTuple):
    """A table with further columns of bags, slides or patients.

    Attributes:
        path: the CSV.
        columns: names of its columns.
        rows: fields by column, without blanks around them.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    @property
    def keys(self) -> list[str]:
        """Columns that may name bags or their patients, in the order in which they are tried."""
        return [name for name in (*_BAGS, *_PATIENTS) if name in self.columns]


def read_columns(path: Path, predictions: bool = False) -> ColumnTable:
    """Read a table of any columns.

    Args:
        path: the CSV; it needs ``bag_id``, ``slide_id``, ``patient_id``, ``patient``, ``group`` or
            ``case_id``.
        predictions: whether it is a table of predictions, whose readers check its lines: the first
            line of each bag counts, and only ``bag_id`` names it.

    Raises:
        DataProblems: the file cannot be read, has no lines or no such column, or a name twice.
    """
    header, lines = read_rows(path, "a table with a column of bags, slides or patients")
    columns = tuple((name or "").strip() for name in header)
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise _refused(path, f"column {twice[0]!r} occurs twice", "keep one of them")
    rows = tuple(
        {new: (row.get(old) or "").strip() for old, new in zip(header, columns, strict=True)}
        for _, row in lines
    )
    if predictions:
        names = [row.get("bag_id") or "" for _, row in lines]  # blanks belong to them there
        first: dict[str, dict[str, str]] = {}
        for name, row in zip(names, rows, strict=True):
            first.setdefault(name, row | {"bag_id": name})
        return ColumnTable(path, columns, tuple(first.values()))
    table = ColumnTable(path, columns, rows)
    if not table.keys:
        reason = "has no column of bags, slides or patients"
        raise _refused(path, reason, "name them in bag_id, slide_id or patient_id")
    if not rows:
        raise _refused(path, "no lines in the file", "write a line for each bag")
    return table


def table_with(column: str, tables: Sequence[ColumnTable]) -> ColumnTable:
    """Return the first table that has a column.

    Raises:
        ValueError: none has it; the message lists the columns there are.
    """
    for table in tables:
        if column in table.columns:
            return table
    if not tables:
        raise ValueError(f"--by {column}: no table to take it from; name one by --table T.csv")
    known = [name for table in tables for name in table.columns if name]
    near = get_close_matches(column.lower(), {name.lower(): name for name in known}, n=1)
    meant = next((name for name in known if near and name.lower() == near[0]), None)
    listed = "; ".join(f"{table.path} has {', '.join(table.columns)}" for table in tables)
    hint = f"; did you mean {meant!r}?" if meant else ""
    raise ValueError(f"--by {column}: no such column; {listed}{hint}")


class BagValues(NamedTuple):
    """Values of a column by bag.

    Attributes:
        values: value by bag, empty where there is none.
        key: column of the table by which bags were found.
        missing: bags that the table does not name.
    """

    values: dict[str, str]
    key: str
    missing: int


def bag_values(
    table: ColumnTable, column: str, bags: Sequence[str], patients: Sequence[str] = ()
) -> BagValues:
    """Return the value of a column for each bag.

    Bags are found by the first of ``bag_id``, ``slide_id`` and the columns of patients that names
    at least one of them; columns of patients may also name the patients of the bags. A name in
    several lines takes their common value; empty fields do not count (A756).

    Args:
        table: the table.
        column: one of its columns.
        bags: names of the bags.
        patients: the patient of each bag, or empty.

    Raises:
        DataProblems: lines of a name differ in their value.
        ValueError: no bag is named in the table.
    """
    for key in table.keys:
        known = {row[key] for row in table.rows}
        for names in (bags, patients) if key in _PATIENTS else (bags,):
            if known.isdisjoint(names):
                continue
            values = _by_name(table, column, key, set(names))
            missing = sum(name not in values for name in names)
            found = {bag: values.get(name, "") for bag, name in zip(bags, names, strict=True)}
            return BagValues(found, key, missing)
    raise ValueError(
        f"{table.path}: none of the {len(bags)} bags is named in the column "
        f"{' or '.join(table.keys)}; the first bag is {bags[0]}"
    )


def _by_name(table: ColumnTable, column: str, key: str, wanted: set[str]) -> dict[str, str]:
    """Return the value of each name of a column that is wanted."""
    held: dict[str, dict[str, None]] = {}
    for row in table.rows:
        if row[key] in wanted:
            values = held.setdefault(row[key], {})
            values |= {row[column]: None} if row[column] else {}
    faults = [
        Problem(
            table.path, name, None, f"lines with the values {', '.join(values)} of {column}",
            "write one value", "patient" if key in _PATIENTS else "bag",
        )
        for name, values in held.items()
        if len(values) > 1
    ]  # fmt: skip
    if faults:
        raise DataProblems(faults)
    return {name: next(iter(values), "") for name, values in held.items()}


def patient_values(
    path: Path, column: str, values: Mapping[str, str], patients: Sequence[str]
) -> dict[str, str]:
    """Return the value of a column for each patient, from those of the bags.

    Args:
        path: the table, for messages.
        column: the column.
        values: value by bag, in the order of the patients.
        patients: the patient of each bag.

    Raises:
        DataProblems: bags of a patient differ in their value; empty ones do not count.
    """
    held: dict[str, dict[str, list[str]]] = {}
    for (bag, value), patient in zip(values.items(), patients, strict=True):
        own = held.setdefault(patient, {})
        if value:
            own.setdefault(value, []).append(bag)
    faults = []
    for patient, own in held.items():
        if len(own) > 1:
            parts = [f"{value} ({_some(bags)})" for value, bags in own.items()]
            reason = f"bags with the values {', '.join(parts)} of {column}"
            remedy = "score bags (--unit bag), or give the bags of a patient one value"
            faults.append(Problem(path, patient, None, reason, remedy, "patient"))
    if faults:
        raise DataProblems(faults)
    return {patient: next(iter(own), "") for patient, own in held.items()}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def check_values(path: Path, column: str, values: Sequence[str]) -> None:
    """Refuse a column that makes no subgroups (A755).

    Args:
        path: the table, for messages.
        column: the column.
        values: value of each bag that is scored.

    Raises:
        ValueError: all values are empty, or there are too many different ones.
    """
    distinct = {value for value in values if value}
    if not distinct:
        raise ValueError(f"{path}: column {column} is empty for all bags that are scored")
    numeric = all(number(value) is not None for value in distinct)
    if numeric and len(distinct) > MOST_NUMBERS:
        raise ValueError(
            f"{path}: column {column} has {len(distinct)} different numbers; put them into bins "
            f"first, for example a column {column}_group with the values low and high"
        )
    if len(distinct) > MOST_TEXTS:
        raise ValueError(
            f"{path}: column {column} has {len(distinct)} different values for {len(values)} "
            f"bags; name a column of at most {MOST_TEXTS}, or join rare values"
        )


def _refused(path: Path, reason: str, remedy: str) -> DataProblems:
    return DataProblems([Problem(path, None, None, reason, remedy)])
