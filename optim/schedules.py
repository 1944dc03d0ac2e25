"""Learning-rate schedules counted in optimizer steps, with linear warm-up.

The LightningModule gives the number of steps of the whole run (`estimated_stepping_batches`), so a
recipe states fractions of the run and never step counts that depend on the batch size. The learning
rate is a closed form of the step: resuming restores it exactly, and a recipe that was changed in
the meantime applies from that step on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupSchedule(LRScheduler):
    """Base class: a factor on each group's rate, linear from ``warmup_start`` to 1, then decaying.

    Args:
        optimizer: the optimizer.
        total_steps: optimizer steps of the whole run, at least 1.
        warmup: share of ``total_steps`` spent in warm-up, in [0, 1).
        warmup_steps: length of the warm-up in steps, not negative; overrides ``warmup`` when given.
            A run that is shorter warms up until its last step.
        warmup_start: factor at step 0, in [0, 1].

    Raises:
        ValueError: a share, a factor or a number of steps is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: float = 0.0,
        warmup_steps: int | None = None,
        warmup_start: float = 0.001,
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"a schedule needs at least one step, got {total_steps}")
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup is a share of the run in [0, 1), got {warmup}")
        if warmup_steps is not None and warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
        _check_factor("warmup_start", warmup_start)
        self.total_steps = total_steps
        self.warmup_steps = round(warmup * total_steps) if warmup_steps is None else warmup_steps
        self.warmup_steps = min(self.warmup_steps, total_steps - 1)
        self.warmup_start = warmup_start
        super().__init__(optimizer)

    def decay(self, progress: float) -> float:
        """Return the factor after warm-up for progress in [0, 1]; constant here."""
        del progress
        return 1.0

    def factor(self, step: int) -> float:
        """Return the factor on the base learning rate at an optimizer step."""
        if step < self.warmup_steps:
            share = step / self.warmup_steps
            return self.warmup_start + (1 - self.warmup_start) * share
        rest = max(self.total_steps - self.warmup_steps, 1)
        return self.decay(min((step - self.warmup_steps) / rest, 1.0))

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each parameter group at the current step."""
        factor = self.factor(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def set_options(self) -> None:
        """Set other options of the optimizer for the current step; does nothing in the base class.

        Called after each step and when training is resumed.
        """

    def step(self, epoch: int | None = None) -> None:
        """Advance to the next step."""
        super().step(epoch)
        self.set_options()

    def state_dict(self) -> dict[str, Any]:
        """Return only the step; everything else comes from the recipe."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the step from the state."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict["_step_count"]
        self._last_lr = self.get_lr()


def _check_factor(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a factor in [0, 1], got {value}")


class Constant(WarmupSchedule):
    """Warm-up, then the base learning rate."""


class Cosine(WarmupSchedule):
    """Warm-up, then half a cosine period down to ``final`` times the base learning rate.

    factor(p) = final + (1 - final) (1 + cos(pi p)) / 2 (Loshchilov & Hutter 2017, eq. 5, no
    restart).

    Args:
        final: factor at the end of the run, in [0, 1].

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: float = 0.0,
        warmup_steps: int | None = None,
        warmup_start: float = 0.001,
        final: float = 0.0,
    ) -> None:
        _check_factor("final", final)
        self.final = final
        super().__init__(optimizer, total_steps, warmup, warmup_steps, warmup_start)

    def decay(self, progress: float) -> float:
        """Return final + (1 - final) (1 + cos(pi progress)) / 2."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


class Linear(WarmupSchedule):
    """Warm-up of learning rates and momentum, then a linear decay to ``final``.

    factor(p) = 1 - (1 - final) p. The schedule of YOLO-style detectors (A235): during warm-up the
    learning rate of weights rises from ``warmup_start``, the learning rate of biases falls from
    ``warmup_bias_lr``, and the momentum rises from ``warmup_momentum`` to the optimizer's value.

    Args:
        final: factor at the end of the run, in [0, 1].
        warmup_momentum: momentum of SGD, or first beta of Adam, at step 0, in [0, 1). None leaves
            the momentum unchanged.
        warmup_bias_lr: learning rate of biases at step 0 (not a factor), for groups named
            ``*_bias``, which ``separate_biases: true`` of the module creates. None: as weights.

    Raises:
        ValueError: a number is out of range, the optimizer has no momentum, or biases have no
            separate groups.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: float = 0.0,
        warmup_steps: int | None = None,
        warmup_start: float = 0.001,
        final: float = 0.0,
        warmup_momentum: float | None = None,
        warmup_bias_lr: float | None = None,
    ) -> None:
        _check_factor("final", final)
        if warmup_momentum is not None and not 0 <= warmup_momentum < 1:
            raise ValueError(f"warmup_momentum must be in [0, 1), got {warmup_momentum}")
        if warmup_bias_lr is not None and not 0 <= warmup_bias_lr < math.inf:
            raise ValueError(
                f"warmup_bias_lr must be finite and not negative, got {warmup_bias_lr}"
            )
        groups = optimizer.param_groups
        if warmup_momentum is not None and not all(map(_momentum, groups)):
            raise ValueError(
                f"{type(optimizer).__name__} has no momentum to warm up; set its momentum, or "
                "leave out warmup_momentum"
            )
        if warmup_bias_lr is not None and not any(map(_of_biases, groups)):
            raise ValueError(
                "warmup_bias_lr needs biases in separate parameter groups named *_bias; set "
                "model.init_args.separate_biases: true, or leave out warmup_bias_lr"
            )
        self.final = final
        self.warmup_momentum, self.warmup_bias_lr = warmup_momentum, warmup_bias_lr
        self._momenta = [_momentum(group) for group in groups]
        super().__init__(optimizer, total_steps, warmup, warmup_steps, warmup_start)

    def decay(self, progress: float) -> float:
        """Return 1 - (1 - final) progress."""
        return 1 - (1 - self.final) * progress

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each parameter group at the current step."""
        rates = super().get_lr()
        if self.warmup_bias_lr is None or self.last_epoch >= self.warmup_steps:
            return rates
        share = self.last_epoch / self.warmup_steps
        for k, (group, base) in enumerate(
            zip(self.optimizer.param_groups, self.base_lrs, strict=True)
        ):
            if _of_biases(group):
                rates[k] = self.warmup_bias_lr + (base - self.warmup_bias_lr) * share
        return rates

    def set_options(self) -> None:
        """Set the momentum of every group."""
        if self.warmup_momentum is None:
            return
        share = min(self.last_epoch / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        for group, own in zip(self.optimizer.param_groups, self._momenta, strict=True):
            value = self.warmup_momentum + (own - self.warmup_momentum) * share
            if "betas" in group:
                group["betas"] = (value, group["betas"][1])
            else:
                group["momentum"] = value


def _of_biases(group: Mapping[str, Any]) -> bool:
    return str(group.get("name", "")).endswith("_bias")


def _momentum(group: Mapping[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


class InverseTime(WarmupSchedule):
    """Warm-up, then the base learning rate divided by 1 + ``rate`` t, t steps after warm-up.

    Args:
        rate: decay per step, not negative; independent of the length of the run.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        rate: float,
        warmup: float = 0.0,
        warmup_steps: int | None = None,
        warmup_start: float = 0.001,
    ) -> None:
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate of the decay must be finite and not negative, got {rate}")
        self.rate = rate
        super().__init__(optimizer, total_steps, warmup, warmup_steps, warmup_start)

    def factor(self, step: int) -> float:
        """Return the warm-up factor divided by 1 + rate t."""
        return super().factor(step) / (1 + self.rate * max(step - self.warmup_steps, 0))


class MultiStep(WarmupSchedule):
    """Warm-up, then the learning rate multiplied by ``gamma`` at each milestone.

    Args:
        milestones: shares of the whole run, warm-up included, each in (0, 1).
        gamma: factor at each milestone, in [0, 1].

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        milestones: Sequence[float],
        gamma: float = 0.1,
        warmup: float = 0.0,
        warmup_steps: int | None = None,
        warmup_start: float = 0.001,
    ) -> None:
        if any(not 0 < m < 1 for m in milestones):
            raise ValueError(f"milestones are shares of the run in (0, 1), got {list(milestones)}")
        _check_factor("gamma", gamma)
        self.milestones = list(milestones)
        self.gamma = gamma
        super().__init__(optimizer, total_steps, warmup, warmup_steps, warmup_start)

    def factor(self, step: int) -> float:
        """Return the warm-up factor times gamma for each milestone passed."""
        passed = sum(step >= round(m * self.total_steps) for m in self.milestones)
        return super().factor(step) * float(self.gamma**passed)
