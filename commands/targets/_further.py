"""What `evaluate.py mil` computes beside its metrics: subgroups and calibration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from commands.targets._calibration import (
    Validation,
    add_calibration_arguments,
    calibrate,
    look_at_validation,
    read_validation,
)
from commands.targets._subgroups import (
    Column,
    add_subgroup_arguments,
    find_columns,
    read_values,
    score_subgroups,
)

if TYPE_CHECKING:
    from evaluation.mil.predictions_csv import BagPredictions
    from evaluation.mil.subgroup_columns import ColumnTable
    from evaluation.targets.scores import Scorer


class Further(NamedTuple):
    """What the options need of other files.

    Attributes:
        columns: columns of ``--by``.
        validation: bags of ``--calibrate``, or None.
    """

    columns: tuple[Column, ...]
    validation: Validation | None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that were read."""
        own = () if self.validation is None else (self.validation.path,)
        return (*dict.fromkeys(column.table for column in self.columns), *own)


class Scored(NamedTuple):
    """What is scored.

    Attributes:
        scorer: scorer of the bags or patients.
        ids: their names.
        groups: their patients, or empty.
    """

    scorer: Scorer
    ids: Sequence[str]
    groups: Sequence[str]


def add_further_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of subgroups and calibration."""
    add_subgroup_arguments(parser)
    add_calibration_arguments(parser)


def look_further(args: argparse.Namespace) -> dict[str, ColumnTable]:
    """Return the tables of the columns; refuse what is wrong before anything is predicted.

    Raises:
        ValueError: see `find_columns` and `look_at_validation`.
    """
    look_at_validation(args)
    return find_columns(args)


def read_further(
    args: argparse.Namespace, tables: dict[str, ColumnTable], found: BagPredictions
) -> Further:
    """Return what the options need for the bags that were predicted or read.

    Raises:
        ValueError: see `read_values` and `read_validation`.
    """
    return Further(read_values(args, tables, found), read_validation(args, found))


def score_further(args: argparse.Namespace, further: Further, whole: Scored) -> dict[str, Any]:
    """Score, print and draw subgroups and calibration, and return their part of the record."""
    return {
        **score_subgroups(args, further.columns, *whole),
        **calibrate(args, further.validation, whole.scorer),
    }
