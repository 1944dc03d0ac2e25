"""A progress bar that shows the few numbers a person watches, and plain lines in a log file."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import rich
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import (
    CustomTimeColumn,
    ProcessingSpeedColumn,
)
from rich.progress import ProgressColumn, Task
from rich.text import Text
from torch import Tensor

from structures import Batch

REFRESH_SECONDS = 0.5


class ProgressBar(RichProgressBar):
    """Show a progress bar, or lines in a log file: loss, learning rate, headline metric, speed.

    The time left is that of the whole training, validations included, if its steps go on to take
    as long as those so far. Where the output is not a terminal (a log file, CI), there is no bar
    but one line a validation, or an epoch without one, and in between one every ``line_seconds``.
    Lines closer together than ``calm_seconds`` are left out, but for the last of a training. A line
    has a score only where it was measured, after a validation; the bar shows the last one.

    Args:
        metrics: names of logged metrics; those that the run logs are shown.
        smoothing: in [0, 1), weight of the past at each step in the means of loss and throughput.
        refresh_rate: updates a second, 0 for neither bar nor lines.
        line_seconds: time after which a line is due in a log file.
        calm_seconds: shortest time between two lines.

    Raises:
        ValueError: ``smoothing`` is out of range.
    """

    entry = "progress"
    order = 10

    def __init__(
        self,
        metrics: Sequence[str] = (
            "val/segm_map",
            "val/bag_auroc",
            "val/bag_c_index",
            "val/bag_r2",
            "val/bag_quadratic_kappa",
            "val/known_segm_map",
            "val/novel_segm_ar_100",
        ),
        smoothing: float = 0.98,
        refresh_rate: int = 4,
        line_seconds: float = 60.0,
        calm_seconds: float = 5.0,
    ) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        super().__init__(refresh_rate=refresh_rate)
        self.metric_names = tuple(metrics)
        self.smoothing = smoothing
        self.line_seconds = line_seconds
        self.calm_seconds = calm_seconds
        self._lines = False
        self._unit = ""
        self._shown: dict[str, Any] = {}
        self._restart()

    def _restart(self) -> None:
        self._loss: Tensor | float = 0.0
        self._weight = 0.0
        self._samples = 0.0
        self._seconds = 0.0
        self._line_step = self._first_step = self._validated_step = -1
        self.seconds_left = math.inf
        self._held = ""  # a line that came too soon after another
        self._start = self._tick = self._shown_at = self._line_at = time.perf_counter()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose between the bar and lines; processes after the first show nothing."""
        super().setup(trainer, pl_module, stage)
        console = rich.get_console()
        if self.is_enabled and not (console.is_terminal or console.is_jupyter):
            self._lines = True
            self.disable()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the means of an earlier run."""
        super().on_train_start(trainer, pl_module)
        self._restart()
        self._first_step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of the throughput."""
        super().on_train_epoch_start(trainer, pl_module)
        self._tick = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the means; the loss stays on its device until it is shown."""
        now = time.perf_counter()
        keep, elapsed, self._tick = self.smoothing, now - self._tick, now
        if isinstance(outputs, Mapping) and isinstance(outputs.get("loss"), Tensor):
            loss = outputs["loss"].detach()
            if pl_module.automatic_optimization:  # then divided by the accumulated batches
                loss = loss * trainer.accumulate_grad_batches
            self._loss = keep * self._loss + (1 - keep) * loss
            self._weight = keep * self._weight + 1 - keep
        if isinstance(batch, Batch):
            self._unit = f"{next(iter(batch.units()))}/s"
            self._samples = keep * self._samples + len(batch) * trainer.world_size
            self._seconds = keep * self._seconds + elapsed
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if now - self._line_at >= self.line_seconds:
            self._print_line(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the new metric; validation does not count as training time."""
        self._shown_at = 0.0
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated_step = trainer.global_step
            self._print_or_hold(trainer)
        self._tick = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print a line for an epoch that ended without a validation."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._line_step != trainer.global_step:
            self._print_or_hold(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the last line if it was held back."""
        super().on_train_end(trainer, pl_module)
        if self._held:
            self._print(self._held)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what the bar shows, refreshed twice a second: reading a loss waits for a GPU."""
        del pl_module
        now = time.perf_counter()
        if not self._shown or now - self._shown_at >= REFRESH_SECONDS:
            self._shown, self._shown_at = dict(self._numbers(trainer)), now
            self.seconds_left = self._time_left(trainer)
        return self._shown

    def _numbers(self, trainer: pl.Trainer) -> dict[str, str]:
        numbers = {}
        if self._weight:
            numbers["train/loss"] = f"{float(self._loss) / self._weight:.3f}"
        rates = [
            group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups
        ]
        if rates:
            numbers["lr"] = f"{max(rates):.1e}"
        logged = trainer.callback_metrics
        numbers |= {n: f"{float(logged[n]):.3f}" for n in self.metric_names if n in logged}
        if self._seconds:
            numbers[self._unit] = f"{self._samples / self._seconds:.1f}"
        return numbers

    def _time_left(self, trainer: pl.Trainer) -> float:
        """Return the seconds that the steps left will take, infinite where that is not known."""
        if self._first_step < 0 or trainer.global_step == self._first_step:
            return math.inf
        done = trainer.global_step - self._first_step
        left = float(trainer.estimated_stepping_batches) - trainer.global_step
        return (self._tick - self._start) / done * max(left, 0.0)

    def _print_or_hold(self, trainer: pl.Trainer) -> None:
        """Print a line, or keep it for the end of training if it comes soon after another."""
        if not self._lines:
            return
        if self._line_step < 0 or time.perf_counter() - self._line_at >= self.calm_seconds:
            self._print_line(trainer)
        else:
            self._held = self._line(trainer)

    def _print_line(self, trainer: pl.Trainer) -> None:
        if self._lines:
            self._line_step, self._line_at = trainer.global_step, time.perf_counter()
            self._print(self._line(trainer))

    def _line(self, trainer: pl.Trainer) -> str:
        measured = self._validated_step == trainer.global_step
        numbers = ", ".join(
            f"{name} {value}"
            for name, value in self._numbers(trainer).items()
            if measured or not name.startswith("val/")
        )
        left = self._time_left(trainer)
        numbers += f", left {_clock(left)}" if 0 < left < math.inf else ""
        epochs = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        return f"epoch {trainer.current_epoch + 1}{epochs}, step {trainer.global_step}: {numbers}"

    def _print(self, line: str) -> None:
        self._held = ""
        rich.get_console().print(line, soft_wrap=True, highlight=False, markup=False)

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Return Lightning's columns with ours for the time and without the batches a second."""
        columns: list[Any] = super().configure_columns(trainer)
        shown = [c for c in columns if not isinstance(c, ProcessingSpeedColumn)]
        return [TimeLeft(self) if isinstance(c, CustomTimeColumn) else c for c in shown]


class TimeLeft(ProgressColumn):
    """The time left: of the whole training in its bar, of its loop in any other."""

    max_refresh = 0.5  # seconds; more would flicker

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Task) -> Text:
        """Return ``0:01:23 left``."""
        training = task.id == self.bar.train_progress_bar_id
        left = self.bar.seconds_left if training else task.time_remaining
        clock = "-:--:--" if left is None or left == math.inf else _clock(left)
        return Text(f"{clock} left", style=self.bar.theme.time)


def _clock(seconds: float) -> str:
    """Return hours, minutes and seconds.

    >>> _clock(61.2)
    '0:01:02'
    """
    return str(timedelta(seconds=math.ceil(seconds)))
