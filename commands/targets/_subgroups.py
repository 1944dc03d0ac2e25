"""The part of `evaluate.py mil` that scores subgroups: ``--by COLUMN``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from commands._arguments import add_input
from commands._tables import show

if TYPE_CHECKING:
    from evaluation.mil.predictions_csv import BagPredictions
    from evaluation.mil.subgroup_columns import ColumnTable
    from evaluation.targets.scores import Scorer

_WIDTH = 30, 16  # of a table that is not printed to a terminal, and of each metric


class Column(NamedTuple):
    """A column of ``--by`` for the bags or patients that were read.

    Attributes:
        name: the column.
        table: the table that has it.
        key: column of the table that names the bags.
        missing: number of bags that the table does not name.
        values: value by bag or patient, empty where there is none.
    """

    name: str
    table: Path
    key: str
    missing: int
    values: dict[str, str]


def add_subgroup_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of subgroups."""
    parser.add_argument(
        "--by",
        nargs="+",
        metavar="COLUMN",
        help="also score the bags of each value of a column, for example of each site",
    )
    add_input(
        parser,
        "--table",
        metavar="T.csv",
        help="with --by: a table with the columns and bag_id, slide_id or patient_id (default: "
        "--predictions, or the table of slides of --data)",
    )


def find_columns(args: argparse.Namespace) -> dict[str, ColumnTable]:
    """Return the table of each column of ``--by``, before anything is predicted.

    Raises:
        ValueError: a column is not there, a table cannot be read, or ``--table`` has no effect.
    """
    if not args.by:
        if args.table is not None:
            raise ValueError("--table has an effect with --by COLUMN alone; add it")
        return {}
    from evaluation.mil.subgroup_columns import read_columns, table_with

    tables = [] if args.table is None else [read_columns(args.table)]
    if args.predictions is not None:
        tables.append(read_columns(args.predictions, predictions=True))
    elif (listed := _table_of_slides(args.data)) is not None:
        tables.append(read_columns(listed))
    return {column: table_with(column, tables) for column in dict.fromkeys(args.by)}


def _table_of_slides(data: Path | None) -> Path | None:
    """Return the table of slides that ``--data`` is or names, or None."""
    if data is None or data.suffix.lower() not in (".csv", ".yaml", ".yml"):
        return None
    if data.suffix.lower() == ".csv":
        return data
    from engine.config.sections import read_data_section

    table = read_data_section(data).get("init_args", {}).get("table")
    return None if table is None else Path(table)


def read_values(
    args: argparse.Namespace, tables: dict[str, ColumnTable], found: BagPredictions
) -> tuple[Column, ...]:
    """Return the columns of ``--by`` for the bags, or with ``--unit patient`` for the patients.

    Args:
        args: arguments of the command.
        tables: see `find_columns`.
        found: predictions of the bags.

    Raises:
        ValueError: bags of a patient or lines of a bag differ in a value, or a column has too many
            values or none.
    """
    if not tables:
        return ()
    from evaluation.mil.subgroup_columns import bag_values, check_values, patient_values

    bags, patients, columns = found.scores.bag_ids, found.scores.groups, []
    for name, table in tables.items():
        values, key, missing = bag_values(table, name, bags, patients)
        if args.unit == "patient" and patients:
            values = patient_values(table.path, name, values, patients)
        check_values(table.path, name, list(values.values()))
        columns.append(Column(name, table.path, key, missing, values))
    return tuple(columns)


def score_subgroups(
    args: argparse.Namespace,
    columns: Sequence[Column],
    scorer: Scorer,
    ids: Sequence[str],
    groups: Sequence[str],
) -> dict[str, Any]:
    """Score and print the subgroups of each column, and return their part of the record.

    Args:
        args: arguments of the command.
        columns: see `read_values`.
        scorer: scorer of all bags or patients.
        ids: their names.
        groups: their patients, or empty.
    """
    if not columns:
        return {}
    from evaluation.mil.subgroups import NO_VALUE, subgroup_scores

    record, gaps = {}, {}
    for column in columns:
        values = [column.values[name] for name in ids]
        found, apart = subgroup_scores(
            scorer, values, patients=groups, draws=args.draws, seed=args.seed
        )
        _show(args, column.name, found, apart)
        notes = [f"values of {column.name} are those of {column.table}, found by {column.key}"]
        if column.missing:
            notes.append(f"{column.missing} bags are not in {column.table} and have {NO_VALUE}")
        notes += [f"{column.name} {name}: {v['note']}" for name, v in found.items() if v["note"]]
        for note in notes:
            print(f"note: {note}")
        record[column.name], gaps[column.name] = found, apart
    return {"subgroups": record, "gaps": gaps}


def _show(
    args: argparse.Namespace, column: str, record: dict[str, Any], gaps: dict[str, Any]
) -> None:
    """Print the subgroups of a column, and the gaps between them."""
    names = {metric: metric.removeprefix("bag_").replace("_", " ") for metric in gaps}
    width = _WIDTH[0] + _WIDTH[1] * len(names)
    rows = [
        [name, one["bags"], *(_cell(one["metrics"][m], one["intervals"][m]) for m in names)]
        for name, one in record.items()
    ]
    title = f"by {column}: {args.unit}s, metrics with 95 % intervals"
    show(title, [column, f"{args.unit}s", *names.values()], rows, width)
    if len(record) < 2:
        return
    lines = [
        [names[m], one["gap"], *one["interval"], one["largest"], one["smallest"]]
        for m, one in gaps.items()
    ]
    columns = ["metric", "gap", "2.5 %", "97.5 %", "largest", "smallest"]
    show(f"largest gaps by {column}", columns, lines, width)


def _cell(value: float, interval: tuple[float, float]) -> str:
    if not math.isfinite(value):
        return "-"
    if not math.isfinite(interval[0]):
        return f"{value:.4f}"
    return f"{value:.4f}\n[{interval[0]:.2f}, {interval[1]:.2f}]"
