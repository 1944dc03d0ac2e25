"""Optimizers that torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import RAdam


class LookaheadRAdam(RAdam):
    """RAdam with Lookahead: every k steps the weights move back towards a slow copy of themselves.

    Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019,
    arXiv 1907.08610, algorithm 1, around RAdam (Liu et al. 2020, arXiv 1908.03265). Slow weights
    start as the initial weights (A105), and after each k-th step

        slow = slow + alpha (fast - slow),    fast = slow

    The step counter and the slow weights are state of each parameter, so a checkpoint holds both.

    Args:
        params: parameters or groups of them.
        lr: learning rate of RAdam.
        betas: decay rates of the moments of RAdam.
        eps: constant of RAdam that prevents division by zero.
        weight_decay: decoupled from the gradient, as in AdamW (A105).
        alpha: interpolation factor of the slow weights, in (0, 1].
        k: steps between synchronisations, at least 1.

    Raises:
        ValueError: alpha or k is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        alpha: float = 0.5,
        k: int = 6,
    ) -> None:
        if not 0 < alpha <= 1 or k < 1:
            raise ValueError(f"alpha must be in (0, 1] and k at least 1, got {alpha} and {k}")
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay=True)
        for group in (self.defaults, *self.param_groups):  # the defaults are for later groups
            group.update(alpha=alpha, k=k)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step of RAdam and synchronise each parameter after every k of its steps."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        trained = [(g, p) for g in self.param_groups for p in g["params"] if p.grad is not None]
        slow = {p: self.state[p].get("slow") for _, p in trained}
        starts = {p: p.clone() for p, weights in slow.items() if weights is None}
        super().step()
        for group, parameter in trained:
            state = self.state[parameter]
            if parameter in starts:
                state["slow"] = starts[parameter]
            if int(state["step"]) % group["k"] == 0:
                state["slow"].lerp_(parameter, group["alpha"])
                parameter.copy_(state["slow"])
        return loss
