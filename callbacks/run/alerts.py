"""An alert of W&B when an error ends a training."""

from __future__ import annotations

import pytorch_lightning as pl

from loggers.wandb_logger import SafeWandbLogger
from structures.not_finite import LossNotFiniteError

MAX_TEXT = 1000  # characters of the message in an alert


class AlertOnError(pl.Callback):
    """Send an alert to W&B when a loss is not finite or another error ends the run.

    W&B passes it on by mail or chat as its user has set. The run counts as failed there. Signals
    that end a training in order, such as Ctrl-C or the end of a job's time, are not errors.
    """

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Send the alert; only the first process does."""
        del pl_module
        if not isinstance(exception, Exception):  # SystemExit or KeyboardInterrupt
            return
        what = "loss is not finite" if isinstance(exception, LossNotFiniteError) else "error"
        text = f"{type(exception).__name__}: {exception}"
        for logger in trainer.loggers:
            if isinstance(logger, SafeWandbLogger):
                logger.alert(f"{what} at step {trainer.global_step}", text[:MAX_TEXT])
