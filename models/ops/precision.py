"""Conversion of number formats in losses and geometry."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half-precision numbers and integers to float32; float64 is left unchanged.

    >>> at_least_float32(torch.zeros(1, dtype=torch.float16)).dtype
    torch.float32
    >>> at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype
    torch.float64
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


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
