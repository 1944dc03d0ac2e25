"""Features kept in memory after they have been read, in pages that worker processes share."""

from __future__ import annotations

import math
import mmap
import os
import pickle
import sys
import tempfile
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from formats.features import FeatureFile
from formats.image_limits import machine_memory

_HEAD = 1 << 10  # bytes in front of the arrays of a slide: a mark, and their types and places
_ALIGNMENT = 64
_GIB = 1 << 30


class FeatureCache:
    """The arrays of slides in anonymous shared memory, which is used up as slides are put in.

    Every slide has a place from the start, so nothing is evicted (A420) and no process waits for
    another: two that put in the same slide write the same bytes. Copies in worker processes, forked
    or not, share the memory.

    Args:
        sizes: slide -> bytes that its arrays take at most, in order of importance.
        limit: most bytes of all slides; those that do not fit are not kept.

    Attributes:
        kept: the slides that have a place.
    """

    def __init__(self, sizes: Mapping[int, int], limit: int) -> None:
        self._places: dict[int, tuple[int, int]] = {}
        end = 0
        for slide, size in sizes.items():
            stop = end + _HEAD + -(-size // _ALIGNMENT) * _ALIGNMENT
            if stop <= limit:
                self._places[slide] = (end, stop)
                end = stop
        self.kept = frozenset(self._places)
        self.bytes = end
        self._open(_anonymous_file(end))

    @classmethod
    def of_size(cls, sizes: Mapping[int, int], gib: float) -> FeatureCache | None:
        """Return a cache of at most ``gib`` GiB, or None for 0 GiB.

        Raises:
            ValueError: ``gib`` is negative, or more than the memory of the machine would be used.
        """
        if not 0 <= gib < math.inf:
            raise ValueError(f"cache_gib is the memory for features in GiB, not {gib}; 0 for none")
        used, memory = min(sum(sizes.values()) / _GIB, gib), machine_memory() / _GIB
        if used > memory:
            raise ValueError(
                f"cache_gib {gib:g}: the features take {used:.3g} GiB and this machine has "
                f"{memory:.3g} GiB of memory; give less than that, and leave room for the training"
            )
        return cls(sizes, int(gib * _GIB)) if gib else None

    def _open(self, file: int) -> None:
        self._file, self._memory = file, mmap.mmap(file, max(self.bytes, 1))
        weakref.finalize(self, os.close, file)

    def __getstate__(self) -> dict[str, Any]:
        from multiprocessing.reduction import DupFd  # not on every system

        return self.__dict__ | {"_memory": None, "_file": DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(state["_file"].detach())

    def get(self, slide: int) -> FeatureFile | None:
        """Return the arrays of a slide, which must not be written to; None if it is not there."""
        place = self._places.get(slide)
        # Marks are read and written by calls of the system, which orders them behind the arrays.
        if place is None or os.pread(self._file, 1, place[0]) != b"\1":
            return None
        arrays: list[Any] = pickle.loads(self._memory[place[0] + 1 : place[0] + _HEAD])
        return FeatureFile._make(None if a is None else self._view(*a) for a in arrays)

    def _view(self, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> Tensor:
        count = int(np.prod(shape))
        return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=offset).view(shape)

    def put(self, slide: int, arrays: FeatureFile) -> None:
        """Keep the arrays of a slide if it has a place that is large enough."""
        begin, stop = self._places.get(slide, (0, 0))
        offset, described = begin + _HEAD, list[Any]()
        for array in arrays:
            described.append(None if array is None else (array.dtype, tuple(array.shape), offset))
            if array is not None:
                end = offset + array.nbytes
                if end > stop:
                    return
                _write(self._file, array.contiguous().view(torch.uint8).numpy(), offset)
                offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        _write(self._file, np.frombuffer(pickle.dumps(described), np.uint8), begin + 1)
        os.pwrite(self._file, b"\1", begin)


def _write(file: int, content: Any, offset: int) -> None:
    view = memoryview(content.reshape(-1))
    while view:  # the system writes at most 2 GiB at once
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def _anonymous_file(size: int) -> int:
    """Return the descriptor of a file in memory; a temporary file where there are none."""
    if sys.platform == "linux":  # not limited by the size of /dev/shm, which is small in containers
        file = os.memfd_create("segmil-features")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.truncate(file, max(size, 1))
    return file
