"""Metrics of the best validation in the history and the summary of a W&B run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from callbacks.run.ranking import tie_breaker, wins
from loggers.wandb_logger import SafeWandbLogger


class BestValues(pl.Callback):
    """Log the metrics of the best validation so far, which ``best.ckpt`` contains, to W&B.

    After each validation of a training with a monitored metric, ``best/<metric>`` is its best value
    so far, a plain number in history and summary, as required for the goal of a sweep. The summary
    also gets the other metrics of that validation under ``best/``, with ``best/epoch`` and
    ``best/step``. The callback also gives the logger the module that declares which value of a
    metric is the best.
    """

    def __init__(self) -> None:
        self._best: float | None = None
        self._loss = math.inf

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the logger the module whose metrics it gets."""
        for logger in trainer.loggers:
            if isinstance(logger, SafeWandbLogger):
                logger.logged_by = pl_module

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start with the best value of the training that is continued, if any."""
        score = getattr(trainer.checkpoint_callback, "best_model_score", None)
        self._best = None if score is None else float(score)
        self._loss = getattr(trainer.checkpoint_callback, "best_loss", math.inf)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare with the best value and log it."""
        checkpoint: Any = trainer.checkpoint_callback
        name = getattr(checkpoint, "monitor", None)
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        if trainer.state.fn != "fit" or trainer.sanity_checking or name not in metrics:
            return
        value, loss, best = metrics[name], tie_breaker(trainer), self._best
        better = not math.isnan(value)
        if best is not None:
            better = better and wins(value, loss, best, self._loss, checkpoint.mode)
        if better:
            self._best, self._loss = value, loss
        if self._best is None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, SafeWandbLogger):
                logger.log_metrics({f"best/{name}": self._best}, step=trainer.global_step)
                if better:
                    with logger.guard("did not accept the summary"):
                        logger.experiment.summary.update(_summary(trainer, metrics))


def _summary(trainer: pl.Trainer, metrics: Mapping[str, float]) -> dict[str, float]:
    values = {f"best/{k}": v for k, v in metrics.items() if k.startswith("val/")}
    return values | {"best/epoch": trainer.current_epoch, "best/step": trainer.global_step}
