"""Training speed: images, bags and instances per second, and the time waiting for data."""

from __future__ import annotations

from collections import Counter
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.run.logged_steps import is_logged, log_numbers
from structures import Batch


class Throughput(pl.Callback):
    """Log the speed of training (``time/*``) as means since the last logged step.

    Every ``trainer.log_every_n_steps`` optimizer steps:
        ``time/step``: seconds per optimizer step, including ``time/data``;
        ``time/data``: seconds per step between one batch and the next: waiting for data, moving
        them to the device, logging;
        ``time/<unit>_per_second``: sum over all processes for each unit of a batch
        (`Batch.units`): images, or bags and their instances.

    Validation, checkpoints at the end of an epoch and the pause between epochs do not count; the
    first batch of an epoch does, so ``time/data`` includes the start of loader workers. Steps that
    are not logged only read the clock twice. On a GPU the clock is read without synchronisation:
    the means are still right over the logged window, because the queue of the device is short.
    Several processes exchange one small tensor at each logged step.
    """

    entry = "throughput"
    order = 30

    def __init__(self) -> None:
        self._restart()
        self._mark = 0.0
        self._logged_step = 0

    def _restart(self) -> None:
        self._seconds = self._waited = 0.0
        self._counts: Counter[str] = Counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start a window at the first step of the run."""
        del pl_module
        self._restart()
        self._logged_step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the clock: the time since the last batch was not training."""
        del trainer, pl_module
        self._mark = perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time since the last batch as waiting for data."""
        del trainer, pl_module, batch, batch_idx
        self._waited += self._lap()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch; log if this step is logged."""
        del outputs, batch_idx
        self._seconds += self._lap()
        if isinstance(batch, Batch):
            self._counts.update(batch.units())
        step = trainer.global_step
        if is_logged(trainer, step) and step != self._logged_step:
            log_numbers(trainer, self._numbers(trainer, pl_module.device), step)
            self._logged_step = step
            self._restart()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restart the clock."""
        del trainer, pl_module
        self._mark = perf_counter()

    def _lap(self) -> float:
        now = perf_counter()
        seconds, self._mark = now - self._mark, now
        return seconds

    def _numbers(self, trainer: pl.Trainer, device: torch.device) -> dict[str, float]:
        seconds, steps = self._seconds + self._waited, trainer.global_step - self._logged_step
        numbers = {"time/step": seconds / steps, "time/data": self._waited / steps}
        counts = [float(count) for count in self._counts.values()]
        if trainer.world_size > 1 and counts:
            counts = trainer.strategy.reduce(
                torch.tensor(counts, device=device), reduce_op="sum"
            ).tolist()
        rates = dict(zip(self._counts, counts, strict=True))
        return numbers | {f"time/{unit}_per_second": n / seconds for unit, n in rates.items()}
