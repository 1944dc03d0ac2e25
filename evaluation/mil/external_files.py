"""Tables of the mean predictions of several models for an external set."""

from __future__ import annotations

from pathlib import Path

from evaluation.mil.external import ExternalPredictions
from evaluation.mil.predictions_csv import Decisions, write_bag_csv
from evaluation.targets.files import write_target_csv
from structures import MILTask
from structures.tasks import has_classes


def write_external(path: Path, found: ExternalPredictions) -> None:
    """Write the mean predictions for each bag, as `train.py predict` writes those of a model.

    ``evaluate.py mil --predictions`` and ``compare`` read the table.

    Args:
        path: the CSV.
        found: predictions of the models.
    """
    if has_classes(found.task):
        task: MILTask = "multiclass" if found.task == "ordinal" else found.task
        decisions = Decisions(task, found.threshold, found.names)
        write_bag_csv(path, found.scores(found.mean), decisions)
        return
    write_target_csv(path, found.ensemble(), None)
