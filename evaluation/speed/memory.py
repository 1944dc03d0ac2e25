"""Peak memory of a computation on the CPU or a GPU."""

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
    """Run ``work`` and return the largest rise of memory above its value before, in MiB.

    On a GPU this is the memory of tensors counted by the allocator of torch; on the CPU it is the
    resident set of the process, including memory of libraries. Memory that was used before, such
    as for weights, is not included.

    Args:
        work: function to run.
        device: device of its tensors.

    Returns:
        MiB, at least 0; None if the system does not provide the value (CPU on other systems than
        Linux).
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
    """Return free memory to the system and reset its peak; return False if not supported."""
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
