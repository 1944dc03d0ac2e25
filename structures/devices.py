"""Which devices compute in float64."""

from __future__ import annotations

import torch
from torch import Tensor

_WITHOUT_FLOAT64 = {"mps"}  # Apple GPUs


def has_float64(device: torch.device) -> bool:
    """Return True if a device supports float64, which Apple GPUs do not.

    >>> has_float64(torch.device("cpu")), has_float64(torch.device("mps"))
    (True, False)
    """
    return device.type not in _WITHOUT_FLOAT64


def as_float64(values: Tensor) -> Tensor:
    """Convert to float64, on the host if the device does not support it; differentiable."""
    return (values if has_float64(values.device) else values.cpu()).double()
