"""Base class of callbacks that draw something after an evaluation epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl

from loggers.wandb_media import WandbMedia


class AfterEvaluation(pl.Callback, ABC):
    """Decides which evaluation epochs are drawn and passes their batches to the subclass.

    During `fit`, the first validation is drawn, then one every n epochs (counted from the last one
    drawn, because validations may skip epochs), and the last. If an epoch has several validations,
    the first is drawn. Sanity checks are never drawn; `validate` and `test` always are.

    Args:
        every_n_epochs: number of epochs n between drawings.

    Raises:
        ValueError: n is below 1.
    """

    def __init__(self, every_n_epochs: int) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.every_n_epochs = every_n_epochs
        self.wandb = WandbMedia()
        self._drawn_epoch: int | None = None
        self._stage: str | None = None
        self.data: Any = None  # the datamodule of the run
        self.split = "val"  # of the epoch

    def start(self) -> None:
        """Discard what was kept from an earlier epoch."""

    def keep(self, pl_module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        """Keep what is needed of a batch, which may belong to another kind of task."""

    @abstractmethod
    def draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draw what was kept; called on every process.

        Args:
            trainer: the trainer.
            pl_module: the module; the scores of the epoch are complete.
            stage: ``epoch_003`` during `fit`, counted from 1 as in the lines of the progress,
                else ``val`` or ``test``.
        """

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin an epoch."""
        del pl_module
        if trainer.sanity_checking:
            self._stage = None
            return
        fitting = trainer.state.fn == "fit"
        self._stage = f"epoch_{trainer.current_epoch + 1:03d}" if fitting else "val"
        self.data, self.split = getattr(trainer, "datamodule", None), "val"
        self.start()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin an epoch."""
        del pl_module
        self._stage = "test"
        self.data, self.split = getattr(trainer, "datamodule", None), "test"
        self.start()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Pass the batch on, except in sanity checks."""
        del trainer, batch_idx
        if self._stage is not None and dataloader_idx == 0:
            self.keep(pl_module, outputs, batch)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Pass the batch on."""
        del trainer, batch_idx
        if self._stage is not None and dataloader_idx == 0:
            self.keep(pl_module, outputs, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw if this epoch is due."""
        if not trainer.sanity_checking and (trainer.state.fn != "fit" or self._is_due(trainer)):
            self._finish(trainer, pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw."""
        self._finish(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last validation if it was skipped."""
        self._finish(trainer, pl_module)
        self._drawn_epoch = None

    def _is_due(self, trainer: pl.Trainer) -> bool:
        epoch = trainer.current_epoch
        if self._drawn_epoch is not None and epoch - self._drawn_epoch < self.every_n_epochs:
            return False
        self._drawn_epoch = epoch
        return True

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stage, self._stage = self._stage, None
        if stage is not None:
            self.draw(trainer, pl_module, stage)
            self.start()


def split_of(stage: str) -> str:
    """Return the split evaluated in a stage of `AfterEvaluation.draw`.

    >>> split_of("epoch_003"), split_of("test")
    ('val', 'test')
    """
    return "test" if stage == "test" else "val"


def title_of(stage: str) -> str:
    """Return the title of a stage.

    >>> title_of("epoch_003"), title_of("test")
    ('val, epoch 003', 'test')
    """
    return f"val, {stage.replace('_', ' ')}" if stage.startswith("epoch") else split_of(stage)
