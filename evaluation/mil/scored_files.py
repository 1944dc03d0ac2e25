"""Tables of the bags or patients that were scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.mil.collector import BagScores
from evaluation.mil.predictions_csv import BagPredictions, Decisions, write_bag_csv
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.files import write_target_csv
from evaluation.targets.scores import Scorer, SurvivalScorer


def write_scored(path: Path, found: BagPredictions, threshold: float) -> None:
    """Write predicted classes, as `train.py predict` writes those of a model.

    Args:
        path: the CSV.
        found: predictions of classes for bags or patients.
        threshold: the one they were scored at.
    """
    names = found.classes or found.names
    write_bag_csv(path, found.scores, Decisions(found.task, threshold, names))


def write_scored_targets(path: Path, found: TargetPredictions, scorer: Scorer) -> None:
    """Write predicted times, values or grades, as `train.py predict` writes those of a model.

    Args:
        path: the CSV.
        found: predictions for bags or patients.
        scorer: their scorer, whose times are those of a Cox model's survival.
    """
    if found.task == "ordinal":
        number = np.arange(len(found.bag_ids))
        scores = BagScores(found.bag_ids, number, found.labels, found.predictions, found.groups)
        write_bag_csv(path, scores, Decisions("multiclass", class_names=found.names))
        return
    times = scorer.times if isinstance(scorer, SurvivalScorer) else None
    write_target_csv(path, found, times=times)
