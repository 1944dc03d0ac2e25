"""Logging of the learning rate of every parameter group."""

from __future__ import annotations

from typing import Literal

from pytorch_lightning.callbacks import LearningRateMonitor


class LearningRate(LearningRateMonitor):
    """Log ``lr-*`` at every logged step.

    Args:
        logging_interval: ``step`` or ``epoch``; None to use the interval of the schedule.
        log_momentum: also log the momentum, or Adam's first beta.
        log_weight_decay: also log the weight decay.
    """

    entry = "learning_rate"
    order = 20

    def __init__(
        self,
        logging_interval: Literal["step", "epoch"] | None = "step",
        log_momentum: bool = False,
        log_weight_decay: bool = False,
    ) -> None:
        super().__init__(logging_interval, log_momentum, log_weight_decay)
