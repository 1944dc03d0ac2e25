"""Normalisation layers of detection backbones and their replacement in a built model."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, Literal, Self

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

Norm = Literal["frozen_bn", "bn", "sync_bn", "gn"]


class FrozenNormsStay(nn.Module):
    """Base of backbones whose frozen norms keep their running statistics in training mode, too.

    A norm without a trainable parameter stays in eval mode: statistics that drift would change a
    part that is meant to be frozen (A332). Constructors call ``self.train()`` at their end.
    """

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all parts but the frozen norms, which stay in eval mode."""
        super().train(mode)
        for module in self.modules():
            own = list(module.parameters(recurse=False))
            if own and getattr(module, "running_mean", None) is not None:
                module.training = mode and any(parameter.requires_grad for parameter in own)
        return self


def group_norm(width: int, eps: float = 1e-5) -> nn.GroupNorm:
    """Return a group norm of ``num_groups(width)`` groups."""
    return nn.GroupNorm(num_groups(width), width, eps=eps)


def num_groups(width: int) -> int:
    """Return the largest power of 2 up to 32 that divides ``width`` into groups of >= 2 channels.

    Group Normalization (arXiv 1803.08494) uses 32 groups; narrow layers get fewer, because a group
    of one channel on a 1 x 1 map is always zero.

    >>> [num_groups(width) for width in (256, 64, 40, 16, 7)]
    [32, 32, 4, 8, 1]
    """
    return math.gcd(32, width, max(width // 2, 1))


def norm_layer(norm: Norm | None) -> Callable[[int], nn.Module] | None:
    """Return the constructor (number of channels -> layer) of a norm, or None for None."""
    if norm is None:
        return None
    layers: dict[str, Callable[[int], nn.Module]] = {
        "frozen_bn": FrozenBatchNorm2d,
        "bn": nn.BatchNorm2d,
        "sync_bn": nn.SyncBatchNorm,
        "gn": group_norm,
    }
    return layers[norm]


def convert_norm(module: nn.Module, norm: Norm) -> nn.Module:
    """Replace every 2-d batch norm below (or at) ``module``.

    Affine weights and, where the new layer has them, running statistics are kept, and so is the
    activation inside timm's ``BatchNormAct2d``. State-dict keys do not change.

    Args:
        module: a built model; changed in place.
        norm: type of the new layers; ``bn`` leaves batch norms unchanged.

    Returns:
        ``module``, or its replacement if it is a batch norm itself.
    """
    layers: Any = sys.modules.get("timm.layers")  # if timm is not loaded, no layer comes from it
    if layers is not None and isinstance(module, layers.BatchNormAct2d):
        return _convert_with_activation(module, norm)
    if isinstance(module, nn.BatchNorm2d):
        return _convert_plain(module, norm)
    for name, child in module.named_children():
        replacement = convert_norm(child, norm)
        if replacement is not child:
            setattr(module, name, replacement)
    return module


def _convert_plain(old: nn.BatchNorm2d, norm: Norm) -> nn.Module:
    if norm == "bn":
        return old
    new: nn.Module
    if norm == "frozen_bn":
        new = FrozenBatchNorm2d(old.num_features, eps=old.eps)
    elif norm == "sync_bn":
        new = nn.SyncBatchNorm(old.num_features, eps=old.eps, momentum=old.momentum)
    else:
        new = group_norm(old.num_features, eps=old.eps)
    return _copy_weights(old, new)


def _convert_with_activation(old: nn.BatchNorm2d, norm: Norm) -> nn.Module:
    from timm.layers import FrozenBatchNormAct2d, GroupNormAct, SyncBatchNormAct

    if norm == "bn":
        return old
    new: nn.Module
    if norm == "frozen_bn":
        new = FrozenBatchNormAct2d(old.num_features, eps=old.eps)
    elif norm == "sync_bn":
        new = SyncBatchNormAct(old.num_features, eps=old.eps, momentum=old.momentum)
    else:
        new = GroupNormAct(old.num_features, num_groups(old.num_features), eps=old.eps)
    new.drop, new.act = old.drop, old.act
    return _copy_weights(old, new)


def _copy_weights(old: nn.BatchNorm2d, new: nn.Module) -> nn.Module:
    new.load_state_dict(old.state_dict(), strict=False)  # a group norm has no running statistics
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(getattr(old, name).requires_grad)  # frozen stages stay frozen
    new.train(old.training)
    return new.to(old.running_mean.device) if old.running_mean is not None else new
