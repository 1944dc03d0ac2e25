"""Groups of parameters with their own learning rates and weight decays."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lightning_modules.freezing import unknown_pattern


def parameter_groups(
    model: nn.Module, separate_biases: bool = False, lr_mult: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Group trainable parameters by backbone membership, weight decay and learning rate.

    Biases and the parameters of normalisation layers (everything with fewer than two axes) get no
    weight decay, and neither do parameters whose names fit a pattern of ``model.no_weight_decay``,
    such as learnt query and position embeddings.

    Args:
        model: the network.
        separate_biases: put every ``bias``, also of a norm, into groups named ``*_bias``, apart
            from the other parameters without weight decay.
        lr_mult: factors by patterns of names; the first pattern that fits a name counts.

    Returns:
        Non-empty groups with ``params``, ``name``, ``backbone``, ``factor`` (None without a
        pattern that fits; the name contains it: ``backbone_x2_no_decay``) and, where it is off,
        ``weight_decay`` = 0.
    """
    parts: dict[tuple[float, bool, bool, bool], list[nn.Parameter]] = {}
    spared: tuple[str, ...] = getattr(model, "no_weight_decay", ())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            bias = separate_biases and name.rpartition(".")[2] == "bias"
            decay = parameter.ndim >= 2 and not bias
            decay = decay and not any(fnmatchcase(name, pattern) for pattern in spared)
            key = (_factor(name, lr_mult or {}), name.startswith("backbone."), decay, bias)
            parts.setdefault(key, []).append(parameter)
    groups = []
    for (factor, backbone, decay, bias), parameters in sorted(parts.items()):
        kind = "" if decay else "_bias" if bias else "_no_decay"
        label = ("backbone" if backbone else "head") + (f"_x{factor:g}" if factor else "") + kind
        group: dict[str, Any] = {"params": parameters, "name": label, "backbone": backbone}
        group["factor"] = factor or None
        groups.append(group if decay else group | {"weight_decay": 0.0})
    return groups


def check_factors(model: nn.Module, lr_mult: Mapping[str, float]) -> None:
    """Check factors of learning rates.

    Raises:
        ValueError: a factor is not positive, or a pattern matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern, factor in lr_mult.items():
        if not 0 < factor < float("inf"):
            raise ValueError(f"lr_mult: the factor of {pattern} must be positive, got {factor}")
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown_pattern("lr_mult", pattern, model)


def _factor(name: str, lr_mult: Mapping[str, float]) -> float:
    """Return the factor of a parameter, 0 if no pattern fits."""
    return next((f for pattern, f in lr_mult.items() if fnmatchcase(name, pattern)), 0.0)
