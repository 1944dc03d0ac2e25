"""Number formats inside losses and geometry."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Widen half-precision numbers (and integers) to float32; float64 stays as it is.

    >>> at_least_float32(torch.zeros(1, dtype=torch.float16)).dtype
    torch.float32
    >>> at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype
    torch.float64
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


_WITHOUT_FLOAT64 = {"mps"}  # Apple's


def has_float64(device: torch.device) -> bool:
    """Tell whether a device computes in float64; Apple's do not.

    >>> has_float64(torch.device("cpu")), has_float64(torch.device("mps"))
    (True, False)
    """
    return device.type not in _WITHOUT_FLOAT64


def as_float64(values: Tensor) -> Tensor:
    """Convert to float64, on the host where the device has none; differentiable."""
    return (values if has_float64(values.device) else values.cpu()).double()


def back_to(like: Tensor, wide: Tensor) -> Tensor:
    """Give what `as_float64` was given for the format and the device of another tensor again.

    In two steps: a gradient that comes back by one would have to leave a device without float64
    as float64.
    """
    return wide.to(like.dtype).to(like.device)
