"""Early stopping by the metric that chooses ``best.ckpt``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info

from loggers.metric_names import best_of, followed


@dataclass(frozen=True)
class EarlyStoppingOptions:
    """Options of the ``early_stopping`` section of a configuration.

    Attributes:
        patience: number of validations in a row without a better value after which the training
            ends, at least 1.
        min_delta: a value counts as better if it is by more than this better than the best.
    """

    patience: int = 10
    min_delta: float = 0.0


class StopEarly(EarlyStopping):
    """Lightning's ``EarlyStopping`` on the metric and the direction of ``best.ckpt``.

    A value that is not finite ends the training too (A335). When a run is resumed, validations
    without a better value are counted on, and patience is that of the configuration.

    Args:
        options: patience and smallest improvement.
        monitor: metric that chooses ``best.ckpt``.
        mode: ``max`` or ``min``; None for the declaration of the module, as in `RunCheckpoint`.

    Raises:
        ValueError: no metric is monitored, or a number is out of range.
    """

    def __init__(
        self, options: EarlyStoppingOptions, monitor: str | None, mode: str | None
    ) -> None:
        if monitor is None:
            raise ValueError("early_stopping follows checkpoint.monitor, which names no metric")
        if options.patience < 1:
            raise ValueError(f"early_stopping.patience must be at least 1, got {options.patience}")
        if not 0 <= options.min_delta < math.inf:
            raise ValueError(
                f"early_stopping.min_delta must be finite and not negative, got {options.min_delta}"
            )
        super().__init__(
            monitor,
            options.min_delta,
            options.patience,
            mode="max" if mode is None else mode,
            check_on_train_epoch_end=False,  # count validations, however often they come
        )
        self._mode_is_declared = mode is None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set the metric of ``best.ckpt`` and the mode that the module declares."""
        metric, replaced = followed(self.monitor, pl_module) if stage == "fit" else ("", "")
        if replaced:
            self.monitor, self._mode_is_declared = metric, True
        declared = best_of(self.monitor, pl_module) if self._mode_is_declared else self.mode
        if declared == "min" and self.mode == "max":
            self.mode, self.min_delta = "min", -self.min_delta
            self.best_score = torch.tensor(math.inf)
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count and the best value; patience is the configuration's."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the metric; say why if the training ends.

        Raises:
            ValueError: the validation did not log the metric.
        """
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"early_stopping: the validation did not log {self.monitor}; set "
                "checkpoint.monitor to a metric that it logs, or leave early_stopping out"
            )
        stopping = trainer.should_stop
        super().on_validation_end(trainer, pl_module)
        if trainer.should_stop and not stopping:
            value = float(trainer.callback_metrics[self.monitor])
            found = f"was not better than {float(self.best_score):.4g}"
            found = f"{found} in {self.wait_count} validations in a row"
            reason = found if math.isfinite(value) else f"is {value}"
            rank_zero_info(f"early stopping: {self.monitor} {reason}")
