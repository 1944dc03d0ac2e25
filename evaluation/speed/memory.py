"""How much memory a computation needs at most, on the CPU or a GPU."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MIB = 2**20
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(work: Callable[[], Any], device: torch.device) -> float | None:
    """Run ``work`` and return how far memory rose above what it was before, in MiB.

    On a GPU these are tensors, as torch's allocator counts them; on the CPU the resident set of
    the process, with everything that libraries hold. What was there before, weights among it, is
    not included.

    Args:
        work: what to do.
        device: where its tensors are.

    Returns:
        MiB, at least 0; None where the system does not tell (the CPU of anything but Linux).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    if not _begin_peak():
        work()
        return None
    resident = _status("VmRSS")
    work()
    return max(0.0, _status("VmHWM") - resident)


def _begin_peak() -> bool:
    """Give free memory back to the system and let its peak begin anew; False if it can't."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return _STATUS.exists()


def _status(name: str) -> float:
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
