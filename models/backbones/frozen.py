"""Parts of a backbone that a training leaves at their random initial values."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def frozen_parts(backbone: nn.Module) -> list[str]:
    """Return which parts are frozen: ``norms``, ``parameters``, both or none."""
    layers: Any = sys.modules.get("timm.layers")  # if timm is not loaded, no layer comes from it
    kinds = (
        FrozenBatchNorm2d if layers is None else (FrozenBatchNorm2d, layers.FrozenBatchNormAct2d)
    )
    found = ["norms"] if any(isinstance(module, kinds) for module in backbone.modules()) else []
    frozen = any(not parameter.requires_grad for parameter in backbone.parameters())
    return [*found, "parameters"] if frozen else found


def is_untrained(backbone: nn.Module) -> bool:
    """Return whether the norm layers have their initial values.

    Those are means and biases of zero, which no training leaves so. A network without norm layers
    counts as trained, because its values do not tell.
    """
    values = []
    for module in backbone.modules():
        mean, bias = getattr(module, "running_mean", None), getattr(module, "bias", None)
        if mean is not None:
            values.append(mean)
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm) and bias is not None:
            values.append(bias)
    return bool(values) and not any(bool(value.any()) for value in values)
