"""Rows of an h5 data set, read without the rows between them.

The h5 library takes several microseconds for every chunk, which is most of the time where a chunk
is a row, as TRIDENT writes them. Chunks that are not compressed lie in the file as they are, so the
library is only asked for their places and the bytes are read directly (A421).
"""

from __future__ import annotations

import itertools
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


def read_rows(array: Any, rows: IntArray | None = None) -> Array:
    """Return rows of a data set in native byte order, mapped from the file if that is possible.

    Args:
        array: h5py data set of numbers, (N,), (N, D) or (1, N, D), in an open file.
        rows: (n,) ascending numbers of rows; None for all.

    Returns:
        (n, ...) values; writing to them does not change the file.

    Raises:
        OSError: a chunk cannot be read, or the file is truncated.
    """
    axis = int(array.ndim == 3)
    if rows is None:
        rows = np.arange(array.shape[axis])
    found = _read_directly(array, axis, rows) if len(rows) else None
    return _read_by_library(array, axis, rows) if found is None else found


def _read_directly(array: Any, axis: int, rows: IntArray) -> Array | None:
    """Return rows that lie in the file as they are.

    They do not, and None is returned, if they are compressed, converted, cut into columns, never
    written or in other files.
    """
    import h5py

    same = array.dtype.isnative and h5py.h5t.py_create(array.dtype, True) == array.id.get_type()
    if not same or array.is_virtual or array.external or array.file.userblock_size:
        return None
    shape = array.shape[axis + 1 :]
    size = int(np.prod(shape)) * array.dtype.itemsize
    if array.chunks is None:
        start = array.id.get_offset()
        return None if start is None else _mapped(array, start + rows * size, shape)
    extent, *rest = array.chunks[axis:]
    if array.id.get_create_plist().get_nfilters() or tuple(rest) != shape:
        return None
    if extent == 1 and 2 * len(rows) < array.shape[axis]:  # else all places are found sooner
        return _read_chunks(array, axis, rows)
    starts = _chunk_places(array, axis)[rows // extent]
    if (starts < 0).any():
        return None
    return _mapped(array, starts + rows % extent * size, shape)


def _read_chunks(array: Any, axis: int, rows: IntArray) -> Array | None:
    """Return chunks of one row, read one by one; None if one of them was never written."""
    values = np.empty((len(rows), *array.shape[axis + 1 :]), array.dtype)
    leading, trailing = (0,) * axis, (0,) * (values.ndim - 1)
    parts = values.reshape(len(rows), -1).view(np.uint8)
    try:
        for row, part in zip(rows.tolist(), parts, strict=True):
            array.id.read_direct_chunk((*leading, row, *trailing), out=part)
    except (OSError, RuntimeError):
        return None
    return values


def _chunk_places(array: Any, axis: int) -> IntArray:
    """Return the byte of the file at which each chunk begins, -1 if it was never written."""
    extent = array.chunks[axis]
    starts = np.full(-(-array.shape[axis] // extent), -1)
    found: list[Any] = []
    array.id.chunk_iter(found.append)
    for chunk in found:
        starts[chunk.chunk_offset[axis] // extent] = chunk.byte_offset
    return starts


def _mapped(array: Any, places: IntArray, shape: tuple[int, ...]) -> Array:
    """Return rows of a shape that begin at bytes of the file; neighbours are copied together."""
    size = int(np.prod(shape)) * array.dtype.itemsize
    with Path(array.file.filename).open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if int(places.max()) + size > len(pages):
        raise OSError(f"truncated: {len(pages)} bytes instead of {int(places.max()) + size}")
    breaks = [0, *(np.flatnonzero(np.diff(places) != size) + 1).tolist(), len(places)]
    first = int(places[0])
    if len(breaks) == 2 and first % array.dtype.itemsize == 0:
        return np.frombuffer(
            pages, array.dtype, places.size * size // array.dtype.itemsize, first
        ).reshape(-1, *shape)
    values = np.empty((len(places), *shape), array.dtype)
    target, source = values.reshape(-1).view(np.uint8), np.frombuffer(pages, np.uint8)
    for start, end in itertools.pairwise(breaks):
        place = int(places[start])
        target[start * size : end * size] = source[place : place + (end - start) * size]
    return values


def _read_by_library(array: Any, axis: int, rows: IntArray) -> Array:
    """Read every run of neighbouring chunks that has wanted rows, and return the rows."""
    values = np.empty((len(rows), *array.shape[axis + 1 :]), array.dtype.newbyteorder("="))
    extent = 1 if array.chunks is None else array.chunks[axis]
    breaks = [*(np.flatnonzero(np.diff(rows // extent) > 1) + 1).tolist(), len(rows)]
    for start, end in itertools.pairwise([0, *breaks] if len(rows) else []):
        low, high = int(rows[start]), int(rows[end - 1]) + 1
        found = array[(0,) * axis + (slice(low, high),)]
        values[start:end] = found[rows[start:end] - low]
    return values
