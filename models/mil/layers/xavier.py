"""Initialisation with Glorot's normal distribution, as in the releases of several MIL methods."""

from __future__ import annotations

from torch import nn


def xavier_normal(module: nn.Module) -> None:
    """Draw the weights of a linear layer from Glorot's normal distribution and set biases to 0.

    Used as ``model.apply(xavier_normal)``; other modules stay as they are.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
