"""Groups of parameters with their own learning rates and weight decays."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

from torch import nn

from lightning_modules.freezing import unknown_pattern


@runtime_checkable
class LayeredBackbone(Protocol):
    """A backbone of equal blocks that says where a parameter is."""

    def blocks_above(self, name: str) -> int:
        """Return how many blocks follow that of a parameter; 0 after the last block."""
        ...


def parameter_groups(
    model: nn.Module,
    separate_biases: bool = False,
    lr_mult: Mapping[str, float] | None = None,
    layer_decay: float | None = None,
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
        layer_decay: factor for each block of the backbone that follows that of a parameter.

    Returns:
        Non-empty groups with ``params``, ``name``, ``backbone``, ``factor`` (None without a
        pattern that fits; the name contains it: ``backbone_x2_no_decay``), ``layer``, the factor of
        the position (the name contains the blocks that follow: ``backbone_below3``) and, where it
        is off, ``weight_decay`` = 0.
    """
    parts: dict[tuple[float, bool, int, bool, bool], list[nn.Parameter]] = {}
    backbone = getattr(model, "backbone", None)
    layers = backbone if isinstance(backbone, LayeredBackbone) and layer_decay else None
    spared: tuple[str, ...] = getattr(model, "no_weight_decay", ())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            bias = separate_biases and name.rpartition(".")[2] == "bias"
            decay = parameter.ndim >= 2 and not bias
            decay = decay and not any(fnmatchcase(name, pattern) for pattern in spared)
            factor, own = _factor(name, lr_mult or {}), name.startswith("backbone.")
            above = 0
            if layers is not None and own and not factor:
                above = layers.blocks_above(name.removeprefix("backbone."))
            parts.setdefault((factor, own, above, decay, bias), []).append(parameter)
    groups = []
    for (factor, own, above, decay, bias), parameters in sorted(parts.items()):
        kind = "" if decay else "_bias" if bias else "_no_decay"
        place = f"_x{factor:g}" if factor else f"_below{above}" if above else ""
        label = ("backbone" if own else "head") + place + kind
        group: dict[str, Any] = {"params": parameters, "name": label, "backbone": own}
        group |= {"factor": factor or None, "layer": (layer_decay or 1.0) ** above}
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


def check_layer_decay(model: nn.Module, layer_decay: float | None) -> None:
    """Check the factor between the blocks of a backbone.

    Raises:
        ValueError: it is not in (0, 1], or the model has no backbone of equal blocks.
    """
    if layer_decay is None:
        return
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}")
    if not isinstance(getattr(model, "backbone", None), LayeredBackbone):
        raise ValueError(
            f"layer_decay needs a backbone of equal blocks such as TimmViT, and "
            f"{type(model).__name__} has none; leave it out, or use backbone_lr_mult"
        )


def _factor(name: str, lr_mult: Mapping[str, float]) -> float:
    """Return the factor of a parameter, 0 if no pattern fits."""
    return next((f for pattern, f in lr_mult.items() if fnmatchcase(name, pattern)), 0.0)
