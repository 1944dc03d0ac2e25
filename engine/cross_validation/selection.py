"""Selection of the weights of a fold by validation bags, and early stopping.

The rules are those of `train.py fit`: the metric of ``best.ckpt``, the intervals of validation, and
the early stopping of the recipe. The loop of a fold has no Trainer, so they are written out here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from evaluation.mil.metrics import METRICS
from evaluation.mil.scores import evaluate_bags
from evaluation.targets.scores import METRICS as TARGET_METRICS
from lightning_modules.mil import MILModule
from lightning_modules.targets.checks import undefined_target_metric
from structures import MILTask
from structures.tasks import CLASS_TASKS

Mode = Literal["max", "min"]


@dataclass(frozen=True, slots=True)
class Stopping:
    """A rule that ends a training, as Lightning's ``EarlyStopping`` does.

    Attributes:
        monitor: metric of the validation.
        mode: ``max`` or ``min``, the best value of the metric.
        patience: number of validations in a row without a better value that end the training.
        min_delta: a value is better if it is by more than this better than the best.
    """

    monitor: str
    mode: Mode
    patience: int
    min_delta: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """When to validate, as ``val_check_interval`` and ``check_val_every_n_epoch`` of the trainer.

    Attributes:
        every: number of batches, or fraction of the batches of an epoch.
        epochs: validate in every n-th epoch; None to count batches over all epochs.
    """

    every: int | float = 1.0
    epochs: int | None = 1

    def is_due(self, before: int, after: int, epoch_length: int) -> bool:
        """Return whether a validation is due after one of the batches of a step (A413).

        Args:
            before: number of batches before the step, over all epochs.
            after: number of batches after it.
            epoch_length: number of batches of an epoch.

        Raises:
            ValueError: an epoch has fewer batches than ``every``.
        """
        if self.epochs is None:
            return after // int(self.every) > before // int(self.every)
        is_share = isinstance(self.every, float)
        every = max(1, int(epoch_length * self.every)) if is_share else int(self.every)
        if every > epoch_length:
            raise ValueError(
                f"trainer.val_check_interval {self.every} is more than the {epoch_length} batches "
                "of an epoch, so that nothing would be validated; lower it, or set "
                "trainer.check_val_every_n_epoch to null to count batches over all epochs"
            )
        for batch in range(before, after):
            epoch, place = divmod(batch, epoch_length)
            if (epoch + 1) % self.epochs == 0 and (place + 1) % every == 0:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Selection:
    """How the weights of a fold are selected.

    Attributes:
        monitor: metric of the validation, such as ``val/bag_auroc``.
        mode: ``max`` or ``min``, the best value of the metric.
        val_fraction: share of the training bags to validate on.
        interval: when to validate.
        stopping: rules that end the training.
    """

    monitor: str
    mode: Mode
    val_fraction: float
    interval: Interval = Interval()
    stopping: tuple[Stopping, ...] = ()

    def check_task(self, task: MILTask) -> None:
        """Check before work starts that the metrics are those of a task.

        Args:
            task: task of the predictions.

        Raises:
            ValueError: a metric is one of another task.
        """
        own = set(METRICS) if task in CLASS_TASKS else set(TARGET_METRICS[task])
        others = {*METRICS, *itertools.chain.from_iterable(TARGET_METRICS.values())} - own
        for monitor in (self.monitor, *(rule.monitor for rule in self.stopping)):
            if monitor.removeprefix("val/") in others:
                raise ValueError(
                    f"{monitor} is no metric of the task {task}, by which --select best or early "
                    f"stopping would select; it has {', '.join(f'val/{n}' for n in sorted(own))} "
                    "and val/loss"
                )

    def for_labels(self, labels: npt.NDArray[Any], task: MILTask, count: int = 2) -> Selection:
        """Return the selection with ``val/loss`` for metrics that these bags leave undefined.

        The AUROC, for example, is not defined where all bags are of one class (A412).

        Args:
            labels: (b,) labels of the validation bags, or times or values.
            task: task of the predictions.
            count: number of classes, bins, values or grades.
        """
        undefined = undefined_metrics(labels, task, count)
        rules = tuple(
            dataclasses.replace(rule, monitor="val/loss", mode="min")
            if rule.monitor in undefined
            else rule
            for rule in self.stopping
        )
        if self.monitor not in undefined:
            return dataclasses.replace(self, stopping=rules)
        return dataclasses.replace(self, monitor="val/loss", mode="min", stopping=rules)


def undefined_metrics(labels: npt.NDArray[Any], task: MILTask, count: int) -> set[str]:
    """Return the metrics that are NaN on bags with these labels, whatever the predictions."""
    if task not in CLASS_TASKS:
        names = TARGET_METRICS[task]
        return {f"val/{n}" for n in names if undefined_target_metric(n, labels, task, count)}
    classes = labels.shape[1] if labels.ndim > 1 else int(labels.max()) + 1
    shape = (len(labels),) if task == "binary" else (len(labels), max(2, classes))
    scores = np.random.default_rng(0).uniform(size=shape)
    if task == "multiclass":
        scores /= scores.sum(axis=1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = evaluate_bags(labels, scores, task)
    return {f"val/{name}" for name in METRICS if math.isnan(found[name])}


class Selected(NamedTuple):
    """The selected weights of a fold.

    Attributes:
        monitor: metric that selected them.
        value: its value.
        step: number of optimizer steps of the selected weights.
        epoch: epoch of that step, from 0.
        steps: number of optimizer steps of the training.
        stopped: whether a rule ended the training.
    """

    monitor: str
    value: float
    step: int
    epoch: int
    steps: int
    stopped: bool


class Selector:
    """Keeps the best weights of a training and decides when it ends.

    Args:
        selection: the rules.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._rules = [_Waiting(rule) for rule in selection.stopping]
        self._best: tuple[Selected, dict[str, Tensor], float, float] | None = None

    def update(
        self, module: MILModule, metrics: Mapping[str, float], step: int, epoch: int
    ) -> bool:
        """Compare a validation with the best one; return whether the training ends.

        Args:
            module: the module that was validated.
            metrics: metrics of the validation by name.
            step: number of optimizer steps so far.
            epoch: epoch of the step, from 0.

        Raises:
            ValueError: the validation lacks a metric.
        """
        monitor = self._selection.monitor
        value = _value(metrics, monitor)
        known = None if self._best is None else self._best[0].value
        if _is_better(value, known, self._selection.mode):
            state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
            found = Selected(monitor, value, step, epoch, step, stopped=False)
            self._best = (found, state, module.threshold, module.progress)
        ended = [rule.ends(_value(metrics, rule.monitor)) for rule in self._rules]
        return any(ended)

    def select(self, module: MILModule, steps: int, *, stopped: bool) -> Selected:
        """Load the best weights into the module and return what was selected.

        Args:
            module: the module.
            steps: number of optimizer steps of the training.
            stopped: whether a rule ended the training.

        Raises:
            ValueError: nothing was validated, or the metric never was a number.
        """
        if self._best is None:
            raise ValueError(
                f"{self._selection.monitor} was not a number in any validation of {steps} steps; "
                "validate more often by trainer.val_check_interval or train longer"
            )
        found, state, module.threshold, module.progress = self._best
        module.load_state_dict(state)
        return found._replace(steps=steps, stopped=stopped)


class _Waiting:
    """Counts the validations without a better value."""

    def __init__(self, rule: Stopping) -> None:
        self.monitor, self._rule = rule.monitor, rule
        self._best: float | None = None
        self._count = 0

    def ends(self, value: float) -> bool:
        if not math.isfinite(value):  # A335
            return True
        mode, margin = self._rule.mode, self._rule.min_delta
        reached = value - margin if mode == "max" else value + margin
        if _is_better(reached, self._best, mode):
            self._best, self._count = value, 0
        else:
            self._count += 1
        return self._count >= self._rule.patience


def _is_better(value: float, best: float | None, mode: Mode) -> bool:
    if math.isnan(value) or best is None:
        return not math.isnan(value)
    return value > best if mode == "max" else value < best


def _value(metrics: Mapping[str, float], monitor: str) -> float:
    if monitor not in metrics:
        raise ValueError(
            f"the validation has no {monitor}, by which --select best or early stopping would "
            f"select; it has {', '.join(sorted(metrics))}"
        )
    return metrics[monitor]
