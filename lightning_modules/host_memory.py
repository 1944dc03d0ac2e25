"""Memory of the process, for networks that work on the processor."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT = 2**31 - 1  # bytes, the largest value that it takes


def keep_freed_memory() -> bool:
    """Let the C library keep memory that is freed, for the rest of the process.

    A forward pass without gradients frees the output of every layer. glibc gives blocks of this
    size back to the system and asks for new ones, whose pages are filled with zeros: half of the
    time of a forward pass of large batches (docs/benchmarks.md, Features of slides). The memory of
    the process then stays at its peak.

    Returns:
        Whether the library has such a setting; others are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30) and mallopt(_TRIM_THRESHOLD, _KEPT))
