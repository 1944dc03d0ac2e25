"""Predictions of the test bags of a cross-validation, and the table of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.mil.cross_validation import FoldSummary, summarise_folds
from evaluation.mil.metrics import bag_table, predicted_classes
from formats.files import write_csv
from structures import MILTask


@dataclass(frozen=True, slots=True)
class FoldPredictions:
    """Predictions of B bags in R repeats.

    Attributes:
        bag_ids: ids of the bags.
        labels: (B,) int64, or (B, C) for a multilabel task.
        folds: (R, B) test fold of each bag.
        probabilities: (R, B) or (R, B, C), each from the model that did not train on the bag.
        thresholds: decision threshold of each (repeat, fold).
        task: task of the predictions.
        class_names: names of the classes, indexed by label.
        groups: the patient of each bag, or empty.
    """

    bag_ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    folds: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    thresholds: dict[tuple[int, int], float]
    task: MILTask
    class_names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def summary(self) -> dict[str, FoldSummary]:
        """Return mean, spread and values of each metric over the folds."""
        return summarise_folds(
            self.labels, self.probabilities, self.folds, self.task, self.thresholds
        )


def write_fold_csv(path: Path, found: FoldPredictions) -> None:
    """Write a line for each bag and repeat, ordered by repeat, fold and bag.

    The columns are ``repeat,fold,bag_id,label,score[,patient_id],prediction,threshold``, with
    numbers in full precision. A binary task has one score, the positive probability; otherwise
    there is a column ``score_<class>`` for each class. A multilabel task has ``label_<class>`` and
    ``prediction_<class>`` too. The threshold is that of the fold; a multiclass task, whose
    prediction is the most probable class, has none.
    """
    names = [f"_{name}" for name in found.class_names]
    several = names if found.labels.ndim > 1 else [""]
    scores = names if found.probabilities.ndim > 2 else [""]
    header = ["repeat", "fold", "bag_id", *(f"label{n}" for n in several)]
    header += [f"score{n}" for n in scores] + ["patient_id"] * bool(found.groups)
    header += [f"prediction{n}" for n in several] + ["threshold"]
    write_csv(path, header, _rows(found))


def _rows(found: FoldPredictions) -> Iterator[list[Any]]:
    labels = found.labels.reshape(len(found.bag_ids), -1).tolist()
    for (repeat, fold), threshold in sorted(found.thresholds.items()):
        scores = found.probabilities[repeat]
        decided = predicted_classes(bag_table(found.labels, scores, found.task), threshold)
        columns = scores.reshape(len(scores), -1).tolist()
        shown = "" if found.task == "multiclass" else repr(threshold)
        for bag in np.flatnonzero(found.folds[repeat] == fold).tolist():
            patient = [found.groups[bag]] if found.groups else []
            prediction = np.atleast_1d(decided[bag]).astype(np.int64).tolist()
            row = [repeat, fold, found.bag_ids[bag], *labels[bag], *map(repr, columns[bag])]
            yield [*row, *patient, *prediction, shown]
