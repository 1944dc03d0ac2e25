"""The best validation so far, in the history and the summary of a W&B run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from loggers.wandb_logger import SafeWandbLogger


class BestValues(pl.Callback):
    """Tell W&B the metrics of the best validation so far, the one that ``best.ckpt`` holds.

    After each validation of a training that has a monitored metric, ``best/<metric>`` is its best
    value so far, a plain number in history and summary, which is what a sweep needs as its goal.
    The summary also gets the other validation metrics of that very validation under ``best/``, with
    ``best/epoch`` and ``best/step``. The logger learns which module says what the best value is.
    """

    def __init__(self) -> None:
        self._best: float | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell the logger whose metrics it gets."""
        for logger in trainer.loggers:
            if isinstance(logger, SafeWandbLogger):
                logger.logged_by = pl_module

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the best value of the training that this one continues, if it does."""
        score = getattr(trainer.checkpoint_callback, "best_model_score", None)
        self._best = None if score is None else float(score)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare and log."""
        checkpoint: Any = trainer.checkpoint_callback
        name = getattr(checkpoint, "monitor", None)
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        if trainer.state.fn != "fit" or trainer.sanity_checking or name not in metrics:
            return
        value, sign = metrics[name], -1.0 if checkpoint.mode == "min" else 1.0
        better = self._best is None or sign * value > sign * self._best
        better = better and not math.isnan(value)
        if better:
            self._best = value
        if self._best is None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, SafeWandbLogger):
                logger.log_metrics({f"best/{name}": self._best}, step=trainer.global_step)
                if better:
                    with logger.guard("took no summary"):
                        logger.experiment.summary.update(_summary(trainer, metrics))


def _summary(trainer: pl.Trainer, metrics: Mapping[str, float]) -> dict[str, float]:
    values = {f"best/{k}": v for k, v in metrics.items() if k.startswith("val/")}
    return values | {"best/epoch": trainer.current_epoch, "best/step": trainer.global_step}
