"""Predictions of bags kept beside a table of cells, and the numbers of their resampled sets.

Beside ``cells.csv`` lies ``cells.csv.predictions/MODEL/SHIFT_SEVERITY.csv``: the table of
predictions that `evaluate.py mil --save-predictions` writes, of the bags with a known target
(A855). For times, ``MODEL/training.csv`` has those of the training bags, whose censoring weighs
the metrics (A856). Both are written before the cell, as the predictions of images are, see
`evaluation.robustness.kept`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.mil.class_scorer import ClassScorer
from evaluation.mil.csv_rows import read_rows
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.mil.scored_files import write_scored, write_scored_targets
from evaluation.statistics.paired import joined
from evaluation.targets.bootstrap import bootstrap_weights, units
from evaluation.targets.files import read_predictions
from evaluation.targets.scores import Scorer, SurvivalScorer
from evaluation.targets.tables import SurvivalReference
from formats.files import sync_folder, write_csv
from structures import DataProblems
from structures.tasks import TIME_TASKS

FloatArray = npt.NDArray[np.float64]

_GRADED = {"bag_accuracy", "bag_mae"}  # metrics that grades alone have together
_OF_TRAINING = ("bag_c_index_ipcw", "bag_ibs", "bag_td_auc")  # weighted by training bags
_TRAINING = "training.csv"  # no name of a cell, which ends in its severity
_ROUNDING = 1e-9  # between the metrics of a table and those of its predictions


def keep_bags(path: Path, found: BagPredictions) -> None:
    """Write the predictions of a cell; the file is on the disk as a whole when this returns.

    Args:
        path: see `evaluation.robustness.kept.kept_file`.
        found: predictions of a checkpoint.
    """
    if found.target is None:
        write_scored(path, found, 0.5 if found.threshold is None else found.threshold)
    else:
        known = found.target.rows(found.target.known)
        if known.reference is not None:
            _keep_training(path.with_name(_TRAINING), known.reference)
        write_scored_targets(path, known, known.scorer())
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _keep_training(path: Path, reference: SurvivalReference) -> None:
    if not path.exists():
        pairs = zip(reference.time.tolist(), reference.event.astype(int).tolist(), strict=True)
        write_csv(path, ["time", "event"], pairs)


def _training(path: Path) -> SurvivalReference | None:
    """Read the times of the training bags, None if there are none.

    Raises:
        ValueError: the file cannot be read.
    """
    if not path.is_file():
        return None
    try:
        rows = [(float(row["time"]), float(row["event"])) for _, row in read_rows(path)[1]]
        time, event = np.array(rows).reshape(-1, 2).T
    except (DataProblems, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read; it needs the columns time and event") from error
    return SurvivalReference(time, event == 1)


class _Kept(NamedTuple):
    """Predictions of a cell.

    Attributes:
        scorer: their scorer.
        patients: the patient of each bag, or empty.
        bags: ids, patients and targets of the bags, which are the same in all cells.
    """

    scorer: Scorer
    patients: tuple[str, ...]
    bags: tuple[object, ...]


def _read(path: Path, cell: Mapping[str, float]) -> _Kept:
    """Read the predictions of a cell.

    Raises:
        ValueError: there are none, or the file cannot be read.
    """
    try:
        found = read_predictions(path, task="ordinal" if {*cell} >= _GRADED else None)
    except DataProblems as error:
        reason = error.problems[0].reason
        raise ValueError(f"{path}: cannot be read: {reason}") from error
    scores, target = found.scores, found.target
    scorer: Scorer
    if target is not None:
        reference = _training(path.with_name(_TRAINING)) if target.task in TIME_TASKS else None
        scorer = replace(target, reference=reference).scorer()
    else:
        threshold = 0.5 if found.threshold is None else found.threshold
        labels, says = scores.labels, scores.probabilities
        scorer = ClassScorer(labels, says, found.task, threshold, found.classes)
    same = (scores.bag_ids, scores.groups, scores.labels.tobytes())
    return _Kept(scorer, scores.groups, same)


class BagDraws:
    """Draws of the bags of a model, the same in each of its cells.

    Attributes:
        unweighted: metrics that cannot be computed without the times of the training bags.
    """

    def __init__(self) -> None:
        self._bags: tuple[object, ...] | None = None
        self.unweighted: list[str] = []

    def drawn(
        self, path: Path, cell: Mapping[str, float], table: Path, draws: int
    ) -> dict[str, FloatArray]:
        """Return (R,) values of the metrics of a cell, drawn as by `evaluate.py mil` (A857).

        Args:
            path: predictions of the cell.
            cell: its metrics.
            table: the table that has it, for messages.
            draws: number of draws R.

        Raises:
            ValueError: the predictions cannot be read or are not those of the cell, or there are
                too few bags for an interval.
        """
        scorer, patients, bags = _read(path, cell)
        if self._bags is None:
            self._bags = bags
        names = self._names(scorer, cell)
        if names is None or bags != self._bags:
            raise ValueError(f"{path} has not the predictions of the cell in {table}")
        if few := scorer.too_few(units(scorer.count, patients), patients=bool(patients)):
            raise ValueError(few)
        weights = bootstrap_weights(scorer, patients, draws, seed=0)
        values = joined([scorer.metrics(block) for block in weights])
        return {name: values[name] for name in names}

    def _names(self, scorer: Scorer, cell: Mapping[str, float]) -> list[str] | None:
        """Return the metrics of a cell that its predictions give again, None if one differs."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metrics without a value
            once = scorer.metrics(np.ones((1, scorer.count)))
        names = [name for name in cell if name.startswith("bag_")]
        values = {name: float(once[name][0]) if name in once else np.nan for name in names}
        other = [name for name in names if not abs(values[name] - cell[name]) < _ROUNDING]
        if {*other} - ({*_OF_TRAINING} if isinstance(scorer, SurvivalScorer) else set()):
            return None
        self.unweighted = list(dict.fromkeys([*self.unweighted, *other]))
        return [name for name in names if name not in other]
