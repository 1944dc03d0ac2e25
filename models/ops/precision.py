"""Conversion of number formats in losses and geometry."""

from __future__ import annotations

import torch
from torch import Tensor

from structures.devices import as_float64, has_float64

__all__ = [
    "as_float64",
    "at_least_float32",
    "back_to",
    "has_bfloat16_units",
    "has_float64",
]


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half-precision numbers and integers to float32; float64 is left unchanged.

    >>> at_least_float32(torch.zeros(1, dtype=torch.float16)).dtype
    torch.float32
    >>> at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype
    torch.float64
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def back_to(like: Tensor, wide: Tensor) -> Tensor:
    """Convert a float64 tensor back to the dtype and device of another tensor; differentiable.

    The dtype is converted before the device, so that gradients also reach a device without float64.
    """
    return wide.to(like.dtype).to(like.device)


_BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")  # the last two: Arm


def has_bfloat16_units() -> bool:
    """Return True if the processor multiplies bfloat16 numbers in units of their own (A350).

    Without them PyTorch converts to float32 and back, and half precision is slower than single.
    """
    if not hasattr(torch.cpu, "get_capabilities"):  # PyTorch 2.10
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in _BFLOAT16_UNITS)
