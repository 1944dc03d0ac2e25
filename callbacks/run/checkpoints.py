"""Checkpoints of a run: ``best.ckpt`` by the monitored score, ``last.ckpt`` to resume.

`engine.checkpoints.atomic_io` writes the files atomically.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from callbacks.run.ranking import tie_breaker, wins
from loggers.metric_names import best_of, followed

_NOT_BEGUN = dict.fromkeys(("ready", "started", "processed", "completed"), 0)
# Counters by which Lightning recognises a validation that was interrupted. It would leave out the
# batches that are done, whose predictions are lost, so none is.
_VALIDATION_DUE = {
    "total": _NOT_BEGUN | {"ready": 1, "started": 1},
    "current": _NOT_BEGUN,
    "is_last_batch": False,
}


class RunCheckpoint(ModelCheckpoint):
    """``ModelCheckpoint`` with a ``last.ckpt`` from which a run resumes exactly.

    ``last.ckpt`` is written after every validation, or at the end of the epoch if the validation is
    its last part; at the end of an epoch if more than ``last_seconds`` have passed since the last
    write; at the end of training; and when a signal ends it. A killed run loses only later steps.
    # A72

    Of validations with the same score, that with the lowest ``val/loss`` is the best, and of those
    the last (A430; with ``save_top_k`` 1).

    A run that continues in its own folder keeps its best score and its files, even if the folder
    was moved.

    If the module knows that the monitored metric has no value on the validation data, as an AUROC
    of one class, ``best.ckpt`` is chosen by the loss instead, and a warning says so.  # A405

    Args:
        save_last: write ``last.ckpt``.
        last_seconds: see above; 0 to write it after every epoch.
        mode: ``max`` or ``min``, the best value of the monitored metric; None to use the
            declaration of the module (``lower_is_better``), else ``max``.
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
        self._validated = self._due = self._validation_due = False
        self._last_step = 0
        self._last_time = time.monotonic()
        self._trains = self._continues = False
        self.best_loss = math.inf  # val/loss of the best checkpoint, infinite if unknown

    @property
    def last_path(self) -> Path:
        """Path of ``last.ckpt``."""
        assert self.dirpath is not None
        return Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set metric and mode as the module declares; remove unfinished files of a killed run."""
        if stage == "fit" and self.monitor is not None:
            self._follow(*followed(self.monitor, pl_module))
        if self._mode_is_declared and best_of(self.monitor or "", pl_module) == "min":
            self.mode, self.kth_value = "min", torch.tensor(math.inf)
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero and self.dirpath is not None:
            for part in Path(self.dirpath).glob(f".*{self.FILE_EXTENSION}.*"):
                part.unlink(missing_ok=True)

    def _follow(self, metric: str, reason: str) -> None:
        if reason:
            rank_zero_warn(
                f"{self.monitor} is not defined in validation ({reason}): best.ckpt is chosen by "
                f"{metric} instead"
            )
            self.monitor, self._mode_is_declared = metric, True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._validated = self._due = False
        self._trains = True
        self._last_step = trainer.global_step
        self._last_time = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Also write ``last.ckpt``, unless the epoch ends here and writes it afterwards."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated = trainer.is_last_batch
            if not self._validated:
                self._write(trainer)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: torch.Tensor | None = None) -> bool:
        """Return whether a checkpoint with this score is kept."""
        kept = super().check_monitor_top_k(trainer, current)
        best = self.best_model_score
        if not kept and self.save_top_k == 1 and current is not None and best is not None:
            new, old = (float(current), tie_breaker(trainer)), (float(best), self.best_loss)
            kept = trainer.strategy.reduce_boolean_decision(wins(*new, *old, self.mode))
        if kept:
            self.best_loss = tie_breaker(trainer)
        return kept

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide whether ``last.ckpt`` is due; the epoch's metrics are not logged yet."""
        super().on_train_epoch_end(trainer, pl_module)
        late = time.monotonic() - self._last_time >= self.last_seconds
        self._due = self._validated or trainer.strategy.broadcast(late)
        self._validated = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``last.ckpt`` of the previous epoch if it is due."""
        super().on_train_epoch_start(trainer, pl_module)
        if self._due:
            self._write(trainer)
        self._due = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Also write ``last.ckpt`` if there were steps since it was last written."""
        super().on_train_end(trainer, pl_module)
        self._write(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Write ``last.ckpt`` if a signal ended the training after a whole step."""
        super().on_exception(trainer, pl_module, exception)
        if isinstance(exception, SIGTERMException) and self._trains:
            self._validation_due = trainer.validating
            self._write(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have an interrupted validation begin again when the run is resumed."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._validation_due:
            loops = checkpoint["loops"]["fit_loop"]
            loops["epoch_loop.val_loop.batch_progress"] = copy.deepcopy(_VALIDATION_DUE)

    def _write(self, trainer: pl.Trainer) -> None:
        nothing_new = self._last_step == trainer.global_step
        if nothing_new or not self.write_last or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for logger in trainer.loggers:  # a resumed run repeats later rows but not earlier ones
            logger.save()
        self.last_model_path = str(self.last_path)  # before saving, because it is saved, too
        trainer.save_checkpoint(self.last_path, weights_only=False)
        self._last_step, self._last_time = trainer.global_step, time.monotonic()
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Detect whether the run continues in the folder of its checkpoint."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        folder = Path(str(trainer.ckpt_path)).resolve().parent
        self._continues = self.dirpath is not None and Path(self.dirpath).resolve() == folder

    def state_dict(self) -> dict[str, Any]:
        """Return the scores and files of the best checkpoints."""
        return super().state_dict() | {"best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score if the run continues; a run in a new folder starts without one."""
        if not self._continues:
            return
        here, moved = Path(str(self.dirpath)), dict(state_dict)
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[name] = str(here / Path(moved[name]).name) if moved.get(name) else ""
        models = moved.get("best_k_models", {})
        moved["best_k_models"] = {str(here / Path(k).name): v for k, v in models.items()}
        super().load_state_dict(moved | {"dirpath": self.dirpath})
        self.current_score = moved.get("current_score")
        self.best_loss = moved.get("best_loss", math.inf)
