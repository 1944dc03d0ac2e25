"""Norm of the gradient before clipping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.run.logged_steps import is_logged, log_numbers


class GradientNorm(pl.Callback):
    """Log ``grad_norm/total``, the 2-norm of all gradients before each logged optimizer step.

    The norm refers to the whole accumulated gradient, averaged over processes, before clipping and
    without the scale of 16-bit training (infinite at a step that the scaler skips). It is logged
    every ``trainer.log_every_n_steps`` optimizer steps; nothing is computed in between. Sharded
    strategies, where each process has a part of each gradient, are not supported.

    Args:
        parts: also log ``grad_norm/<name>`` for each direct child of the network with gradients.
    """

    entry = "gradient_norm"
    order = 50

    def __init__(self, parts: bool = False) -> None:
        self.parts = parts

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Log the norms if the next step is logged."""
        step = trainer.global_step + 1
        if not is_logged(trainer, step):
            return
        groups = [group["params"] for group in optimizer.param_groups]
        norms = {"total": gradient_norm(p for params in groups for p in params)}
        network = pl_module.model
        if self.parts and isinstance(network, nn.Module):
            for name, child in network.named_children():
                if any(p.grad is not None for p in child.parameters()):
                    norms[name] = gradient_norm(child.parameters())
        scale = _remaining_scale(trainer, optimizer)
        values = {f"grad_norm/{name}": float(norm) / scale for name, norm in norms.items()}
        log_numbers(trainer, values, step)


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the 2-norm of all gradients together, on their device; 0 without gradients."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _remaining_scale(trainer: pl.Trainer, optimizer: Optimizer) -> float:
    """Return the scale that a fused optimizer removes from the gradients itself, or 1."""
    scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return float(scaler.get_scale()) if scaler is not None and fused else 1.0
