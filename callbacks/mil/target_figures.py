"""Figures of bags whose target is a time, values or a grade."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from callbacks.after_evaluation import AfterEvaluation, split_of, title_of
from evaluation.mil.collector import BagScores
from evaluation.targets.figures import target_figures
from loggers.run_files import rasterise, run_folder, write_png
from loggers.wandb_media import Media
from structures import MILTask
from structures.tasks import CLASS_TASKS


class TargetFigures(AfterEvaluation):
    """Draw survival by risk group, and predicted by true times, values or grades.

    Of times, ``survival`` has the Kaplan-Meier curves of the risk groups with the log-rank test,
    and ``targets`` the risk of each bag by its time. During a training the groups are cut at the
    median risk of the scored bags, afterwards, in `test`, at that of the training bags (A725). Of
    values and grades, ``targets`` has the predicted by the true ones. Writes
    ``pictures/survival_val.png`` and ``pictures/targets_val.png`` of the latest validation and
    the same of the test, and logs ``val/survival`` and ``val/targets`` to W&B. Nothing is drawn
    for classes, and where no target of the split is known, which is said once.

    Args:
        every_n_epochs: epochs between figures (see `AfterEvaluation`).
    """

    entry = "targets"
    order = 95

    def __init__(self, every_n_epochs: int = 10) -> None:
        super().__init__(every_n_epochs)
        self._told = False

    def draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draw, write and log the figures."""
        folder = run_folder(trainer, "pictures")
        module: Any = pl_module
        task: MILTask | None = getattr(module, "task", None)  # none of images
        scores: BagScores | None = getattr(module, "bag_scores", None)
        if not trainer.is_global_zero or scores is None or task is None or task in CLASS_TASKS:
            return
        split, when = split_of(stage), title_of(stage)
        found = target_figures(module.target_predictions(scores), when) if scores.bag_ids else {}
        if not found and not self._told:
            self._told = True
            rank_zero_info(f"no figure of targets: no bag of {split} has a known target")
        for name, figure in found.items():
            image = rasterise(figure)
            if folder is not None:
                write_png(folder / f"{name}_{split}.png", image)
            self.wandb.log(trainer, f"{split}/{name}", [Media(image, when)])
