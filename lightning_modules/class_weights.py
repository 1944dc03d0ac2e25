"""Weights of classes in the classification loss of a segmentation model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from models.losses.imbalance import inverse_frequency_weights

ClassWeights = Mapping[str, float] | Literal["balanced"]
_SHOWN = 8


def resolve_class_weights(
    chosen: ClassWeights, names: Sequence[str], counts: Callable[[], Tensor]
) -> Tensor:
    """Return the weight of each class; log them.

    Args:
        chosen: checked weights by class name, 1 for the others; or ``balanced`` for n / (C n_c),
            with n_c objects of class c, n of all and C classes that have objects, so that the mean
            over the objects is 1 (A333). A class without objects has weight 1.
        names: name of each class.
        counts: returns n_c, (C,) int64; called only for ``balanced``.

    Returns:
        (C,) float32, positive.

    Raises:
        ValueError: a class is unknown.
    """
    if chosen == "balanced":
        found = counts()
        weights = inverse_frequency_weights(found).where(found > 0, 1.0)
    else:
        assert not isinstance(chosen, str)
        unknown = [name for name in chosen if name not in names]
        if unknown:
            near = get_close_matches(unknown[0], names, n=3)
            advice = f"did you mean {' or '.join(near)}?" if near else f"there are {_some(names)}"
            raise ValueError(f"class_weights names {', '.join(unknown)}, no class; {advice}")
        weights = torch.tensor([float(chosen.get(name, 1.0)) for name in names])
    low, high = int(weights.argmin()), int(weights.argmax())
    rank_zero_info(
        f"class weights: {weights[low]:.3g} ({names[low]}) to {weights[high]:.3g} ({names[high]})"
    )
    return weights


def check_weights(chosen: ClassWeights) -> None:
    """Check that weights given by name are positive and finite.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, weight in {} if isinstance(chosen, str) else chosen.items():
        if not 0 < weight < math.inf:
            raise ValueError(f"class_weights: {name} must be positive and finite, got {weight}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
