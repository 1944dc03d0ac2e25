"""When a training validates and on how much, told before its first step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.mil.base import MILDataModule
from datamodules.seg.base import SegDataModule

_FEW_BAGS, _FEW_IMAGES = 30, 20  # A431
_REMEDY = "or keep last.ckpt alone by --checkpoint.save_top_k 0"


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a training and its validations.

    Attributes:
        steps: optimizer steps of the training, infinite if it has no limit.
        epoch: optimizer steps of an epoch.
        first: step after which the first validation is due.
        last: step after which the last validation is made, 0 if there is none.
    """

    steps: float
    epoch: int
    first: int
    last: float


def plan_of(trainer: pl.Trainer, batches: int) -> Plan | None:
    """Return when a training validates; None if that depends on time.

    Args:
        trainer: its limits and intervals are read.
        batches: training batches of an epoch on one process.
    """
    limit, every = trainer.limit_train_batches, trainer.check_val_every_n_epoch
    interval = getattr(trainer, "val_check_interval", None)  # there is none by the clock
    used = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
    if used < 1 or not isinstance(interval, int | float):
        return None
    group = trainer.accumulate_grad_batches
    epoch = math.ceil(used / group)
    epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs or 0)
    end = epochs * used  # the length of the training in batches
    if trainer.max_steps >= 0:
        whole, rest = divmod(trainer.max_steps, epoch)
        end = min(end, whole * used + min(rest * group, used))
    if every is None:
        first = int(interval)
        last = end if math.isinf(end) else end // first * first
    else:
        each = interval if isinstance(interval, int) else max(1, int(used * interval))
        first = (every - 1) * used + each
        last = end if math.isinf(end) else _last_of_epochs(int(end), used, every, int(each))

    def steps(count: float) -> float:
        whole, rest = divmod(count, used) if math.isfinite(count) else (math.inf, 0)
        return whole * epoch + math.ceil(rest / group)

    return Plan(steps(end), epoch, int(steps(first)), steps(last))


def _last_of_epochs(end: int, epoch: int, every: int, each: int) -> int:
    """Return the batch after which the last validation before ``end`` is made, 0 for none."""
    whole, rest = divmod(end, epoch)
    if (whole + 1) % every == 0 and rest >= each:
        return whole * epoch + rest // each * each
    validated = whole // every * every
    return (validated - 1) * epoch + epoch // each * each if validated else 0


def check_validation(trainer: pl.Trainer, data: Any, resumes: bool) -> None:
    """Report that nothing, or little, will choose ``best.ckpt``.

    Args:
        trainer: the trainer of a training that has not begun.
        data: its datamodule; only those of segmil are judged.
        resumes: whether the training goes on from a checkpoint.

    Raises:
        ValueError: ``best.ckpt`` needs a validation, but there are no validation data, or the first
            validation comes after the end of training.
    """
    if not isinstance(data, SegDataModule | MILDataModule) or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    saving = trainer.checkpoint_callback
    if not isinstance(saving, ModelCheckpoint) or saving.save_top_k == 0:
        return
    metric = saving.monitor or ""
    if not metric.startswith("val/"):
        return
    if trainer.limit_val_batches == 0:
        rank_zero_warn(
            "trainer.limit_val_batches is 0, so no validation chooses best.ckpt: use last.ckpt"
        )
        return
    for message in _too_few(data, metric):
        rank_zero_warn(message)
    if not resumes:  # else earlier parts may have validated
        for message in _too_late(trainer, data, metric):
            rank_zero_warn(message)


def _too_few(data: SegDataModule | MILDataModule, metric: str) -> Iterator[str]:
    if isinstance(data, MILDataModule):
        count, few, unit, other = len(data.numbers("val")), _FEW_BAGS, "bags", ""
        other = ", or compare models by python evaluate.py mil-cv"
    else:
        count, few, unit, other = len(data.source("val")), _FEW_IMAGES, "images", ""
    if not count:
        raise ValueError(
            f"there are no validation {unit}, so {metric} cannot choose best.ckpt; raise "
            f"data.val_fraction, name them in the data, {_REMEDY}"
        )
    if count < few:
        yield (
            f"{count} validation {unit} choose best.ckpt by {metric}: with fewer than {few}, that "
            f"is chance as much as the score. Hold out more, compare with last.ckpt{other}"
        )


def _too_late(
    trainer: pl.Trainer, data: SegDataModule | MILDataModule, metric: str
) -> Iterator[str]:
    batches = data.train_sampler() if isinstance(data, SegDataModule) else data.training_batches()
    plan = plan_of(trainer, len(batches) // trainer.world_size)  # type: ignore[arg-type]
    if plan is None or plan.last == plan.steps:
        return
    if plan.last == 0:
        raise ValueError(
            f"the training ends after {plan.steps:g} steps, before the first validation after step "
            f"{plan.first} (trainer.check_val_every_n_epoch {trainer.check_val_every_n_epoch}, "
            f"trainer.val_check_interval {trainer.val_check_interval}; an epoch has {plan.epoch} "
            f"steps), so {metric} cannot choose best.ckpt; train longer, validate more often, "
            f"{_REMEDY}"
        )
    if plan.steps == trainer.max_steps:
        yield (
            f"trainer.max_steps {trainer.max_steps} ends the training inside an epoch: its last "
            f"validation is after step {plan.last:g}, so {plan.steps - plan.last:g} steps are in "
            f"last.ckpt alone. An epoch has {plan.epoch} steps; set "
            f"trainer.max_steps {plan.last:g}, or trainer.val_check_interval"
        )
