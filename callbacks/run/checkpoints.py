"""When a run writes its checkpoints: ``best.ckpt`` by the monitored score, ``last.ckpt`` to resume.

`engine.checkpoints.atomic_io` writes the files themselves, whole or not at all.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from loggers.metric_names import best_of


class RunCheckpoint(ModelCheckpoint):
    """Lightning's callback for the best checkpoint, and a ``last.ckpt`` that resumes exactly.

    ``last.ckpt`` is written after every validation, or, where that ends an epoch, when the epoch is
    closed; at the end of an epoch that ends more than ``last_seconds`` after the last writing; and
    at the end of training. A run that is killed loses what came after it.  # A72

    A run that continues in its own folder remembers its best score and its files, also when the
    folder was moved.

    Args:
        save_last: write ``last.ckpt``.
        last_seconds: see above; 0 for every epoch.
        mode: ``max`` or ``min``, which value of the monitored metric is the best; None for what the
            module declares of it (``lower_is_better``), else ``max``.
        kwargs: arguments of ``ModelCheckpoint``.
    """

    def __init__(
        self,
        save_last: bool = True,
        last_seconds: float = 60.0,
        mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(save_last=False, mode="max" if mode is None else mode, **kwargs)
        self._mode_is_declared = mode is None
        self.write_last = save_last
        self.last_seconds = last_seconds
        self._validated = self._due = False
        self._last_step = 0
        self._last_time = time.monotonic()
        self._continues = False

    @property
    def last_path(self) -> Path:
        """Where ``last.ckpt`` is written."""
        assert self.dirpath is not None
        return Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the mode that the module declares; remove what a killed run left unfinished."""
        if self._mode_is_declared and best_of(self.monitor or "", pl_module) == "min":
            self.mode, self.kth_value = "min", torch.tensor(math.inf)
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero and self.dirpath is not None:
            for part in Path(self.dirpath).glob(f".*{self.FILE_EXTENSION}.*"):
                part.unlink(missing_ok=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._validated = self._due = False
        self._last_step = trainer.global_step
        self._last_time = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Also write ``last.ckpt``, unless the epoch ends here and does it in a moment."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated = trainer.is_last_batch
            if not self._validated:
                self._write(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out whether ``last.ckpt`` is due; the epoch's metrics are not logged yet."""
        super().on_train_epoch_end(trainer, pl_module)
        late = time.monotonic() - self._last_time >= self.last_seconds
        self._due = self._validated or trainer.strategy.broadcast(late)
        self._validated = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``last.ckpt`` of the epoch before if it is due."""
        super().on_train_epoch_start(trainer, pl_module)
        if self._due:
            self._write(trainer)
        self._due = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Also write ``last.ckpt`` for the steps after the last writing."""
        super().on_train_end(trainer, pl_module)
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        nothing_new = self._last_step == trainer.global_step
        if nothing_new or not self.write_last or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for logger in trainer.loggers:  # a resumed run makes later rows again, and no earlier one
            logger.save()
        self.last_model_path = str(self.last_path)  # before saving: it is part of what is saved
        trainer.save_checkpoint(self.last_path, weights_only=False)
        self._last_step, self._last_time = trainer.global_step, time.monotonic()
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Find out whether the run continues in the folder of its checkpoint."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        folder = Path(str(trainer.ckpt_path)).resolve().parent
        self._continues = self.dirpath is not None and Path(self.dirpath).resolve() == folder

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score back if the run continues; a new folder begins with none."""
        if not self._continues:
            return
        here, moved = Path(str(self.dirpath)), dict(state_dict)
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[name] = str(here / Path(moved[name]).name) if moved.get(name) else ""
        models = moved.get("best_k_models", {})
        moved["best_k_models"] = {str(here / Path(k).name): v for k, v in models.items()}
        super().load_state_dict(moved | {"dirpath": self.dirpath})
        self.current_score = moved.get("current_score")
