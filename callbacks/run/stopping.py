"""Stopping a training by a signal at a step from which it can be resumed exactly."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

_CTRL_C = b"\nstopping after this step; Ctrl-C again stops at once\n"


class StopOnSignal(pl.Callback):
    """End a training after the optimizer step during which a signal came.

    SIGTERM, the first SIGINT (Ctrl-C) and, in a job of Slurm, SIGUSR1 end it; `RunCheckpoint` then
    writes ``last.ckpt``. A second SIGINT raises KeyboardInterrupt at once. On several processes all
    of them stop after the same step, whichever got the signal, which takes a collective per step.

    Attributes:
        received: the signal that ended the training, or None.
        trainer: the trainer of the training, None before its start.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.trainer: pl.Trainer | None = None
        self._stopping = False
        self._step = 0
        self._raise_later: Any = None  # Lightning's handler, which raises after the batch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals; the trainer restores their handlers when it is done."""
        del pl_module
        self.trainer, self._step = trainer, trainer.global_step
        if threading.current_thread() is not threading.main_thread():
            return
        self._raise_later = signal.getsignal(signal.SIGTERM)
        requeue = [signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else []
        for number in (signal.SIGTERM, signal.SIGINT, *requeue):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self.received is not None:
            raise KeyboardInterrupt
        if self.received is not None:
            return
        self.received = signal.Signals(number)
        trainer = self.trainer
        assert trainer is not None
        if number == signal.SIGINT and trainer.is_global_zero:
            os.write(2, _CTRL_C)  # print() may be in use right now
        if trainer.validating and trainer.world_size == 1:
            self._stop()  # A433

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop if a process was asked to, but not between the batches of one optimizer step."""
        del pl_module, outputs, batch, batch_idx
        if trainer.global_step == self._step:
            return
        self._step, asked = trainer.global_step, self.received is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            self._stop()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the validation after the last step to the resumed run."""
        del pl_module
        if self._stopping and not trainer.sanity_checking:
            raise SIGTERMException

    def _stop(self) -> None:
        self._stopping = True
        if callable(self._raise_later):
            self._raise_later(signal.SIGTERM, None)
