"""Schedule that warms up the heads before a pretrained backbone moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from optim.schedules import WarmupSchedule


class TwoStagePoly(WarmupSchedule):
    """Heads warm up first, then the backbone; each decays by a polynomial after its own warm-up.

    With t the step, T ``total_steps``, W ``warmup_steps`` and V ``backbone_warmup_steps``,

        heads       t / W                                  for t < W
                    (1 - (t - W) / (T - W))^power          then
        backbone    0                                      for t < W
                    (t - W) / V                            for t < W + V
                    (1 - (t - W - V) / (T - W - V))^power  then

    (EoMT, arXiv 2503.19108). Groups of the backbone are those named ``backbone*``, as the module
    names the parameters of ``model.backbone``.

    Args:
        optimizer: the optimizer.
        total_steps: optimizer steps of the whole run, at least 1.
        warmup_steps: W; a run that is shorter warms up until its last step.
        backbone_warmup_steps: V, not negative, shortened in the same way.
        power: exponent of the decay, positive.

    Raises:
        ValueError: a number is out of range, or no group is the backbone's.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int,
        backbone_warmup_steps: int,
        power: float = 0.9,
    ) -> None:
        if backbone_warmup_steps < 0 or not 0 < power < float("inf"):
            raise ValueError(
                "backbone_warmup_steps must not be negative and power must be positive, got "
                f"{backbone_warmup_steps} and {power}"
            )
        if not any(map(_of_backbone, optimizer.param_groups)):
            raise ValueError(
                "TwoStagePoly needs parameter groups named backbone*, of a model with a backbone "
                "that is trained; use optim.schedules.Cosine for others"
            )
        self.backbone_warmup_steps, self.power = backbone_warmup_steps, power
        super().__init__(optimizer, total_steps, warmup_steps=warmup_steps, warmup_start=0.0)

    def decay(self, progress: float) -> float:
        """Return (1 - progress)^power."""
        return float((1 - progress) ** self.power)

    def backbone_factor(self, step: int) -> float:
        """Return the factor on the learning rates of the backbone."""
        length = min(self.backbone_warmup_steps, self.total_steps - 1 - self.warmup_steps)
        begun = step - self.warmup_steps
        if begun < 0:
            return 0.0
        if begun < length:
            return begun / length
        rest = max(self.total_steps - self.warmup_steps - length, 1)
        return self.decay(min((begun - length) / rest, 1.0))

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each parameter group at the current step."""
        heads, backbone = self.factor(self.last_epoch), self.backbone_factor(self.last_epoch)
        return [
            base * (backbone if _of_backbone(group) else heads)
            for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True)
        ]


def _of_backbone(group: Mapping[str, Any]) -> bool:
    return str(group.get("name", "")).startswith("backbone")
