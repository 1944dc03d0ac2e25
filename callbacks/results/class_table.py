"""Per-class metrics of the latest evaluation as a CSV file and a W&B table."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytorch_lightning as pl

from callbacks.after_evaluation import AfterEvaluation, split_of
from evaluation.mil.classes import class_scores
from formats.files import atomic_write
from loggers.run_files import run_folder
from loggers.wandb_charts import records_table
from structures.tasks import has_classes


class ClassTable(AfterEvaluation):
    """Write ``per_class.csv`` to the run folder, and with W&B the table ``val/per_class``.

    For images: AP, AP50 and AP75 of boxes and masks for each class, with the number of instances
    (module attribute ``scores``). For bags: AUROC, AUPRC, precision, recall and F1 of each class
    against the rest (``bag_scores``). The first columns are ``split`` and, during training,
    ``epoch``; undefined values are left empty.

    Args:
        every_n_epochs: epochs between tables (see `AfterEvaluation`).
    """

    entry = "class_table"
    order = 100

    def __init__(self, every_n_epochs: int = 5) -> None:
        super().__init__(every_n_epochs)

    def draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write and log the table."""
        path = run_folder(trainer, "per_class.csv")
        rows = class_rows(pl_module)
        if not trainer.is_global_zero or not rows:
            return
        split = split_of(stage)
        if path is not None:
            fitting = stage.startswith("epoch_")
            epoch = int(stage.removeprefix("epoch_")) - 1 if fitting else ""  # as in metrics.csv
            place = {"split": split, "epoch": epoch}
            text = io.StringIO(newline="")
            table = csv.DictWriter(text, [*place, *rows[0]], lineterminator="\n")
            table.writeheader()
            table.writerows(place | {k: _text(v) for k, v in row.items()} for row in rows)
            with atomic_write(path) as file:
                file.write(text.getvalue().encode())
        self.wandb.send(trainer, f"{split}/per_class", lambda: records_table(rows))


def class_rows(pl_module: pl.LightningModule) -> list[dict[str, Any]]:
    """Return one row per class of the module's latest evaluation, no rows without scores."""
    module: Any = pl_module
    scores, bags = getattr(module, "scores", None), getattr(module, "bag_scores", None)
    if scores is not None:
        rows: list[dict[str, Any]] = scores.per_class()
        return rows
    if bags is None or not has_classes(module.task):
        return []
    known = bags.known
    if not known.any():
        return []
    return class_scores(
        bags.labels[known],
        bags.probabilities[known],
        "multiclass" if module.task == "ordinal" else module.task,
        module.threshold,
        module.class_names,
    )


def _text(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value) if np.isfinite(value) else ""
    return value
