"""Atomic writing, JSON, CSV and hashes of files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np


@contextmanager
def atomic_write(path: Path, durable: bool = False) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when the block ends without an error.

    A reader never sees a partial file, and a run that fails keeps the previous file.

    Args:
        path: the file; missing parent folders are created.
        durable: wait until the file is on disk, so that it also survives a crash of the machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
        if durable:
            sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a change of names to disk; only on POSIX, elsewhere folders cannot be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path, largest: int | None = None, ends: int = 1 << 26) -> bytes:
    """Return the SHA-256 of a file.

    Args:
        path: the file.
        largest: size in bytes up to which the whole file is hashed. For a larger file, the size
            and the bytes at both ends are hashed; None hashes every file completely.
        ends: number of bytes read at each end of a larger file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        if largest is None or size <= largest:
            return hashlib.file_digest(stream, "sha256").digest()
        digest = hashlib.sha256(str(size).encode())
        digest.update(stream.read(ends))
        stream.seek(-ends, os.SEEK_END)
        digest.update(stream.read(ends))
        return digest.digest()


def file_hash(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    return file_digest(path).hex()[:16]


def write_csv(path: Path, header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table in UTF-8 with a line feed after each row; the write is atomic."""
    with (
        atomic_write(path) as file,
        io.TextIOWrapper(file, encoding="utf-8", newline="") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_json(path: str | Path, payload: Any, *, indent: int | None = None) -> Path:
    """Write JSON atomically: a reader sees either the old file or the complete new one.

    Numbers keep full precision; NaN and infinity, which JSON does not have, become ``null``;
    numpy scalars and arrays become numbers and lists.

    Args:
        path: file to write; missing folders are created.
        payload: plain containers, numbers, text, numpy scalars and arrays.
        indent: spaces per level, or None for one line.

    Returns:
        The path written.
    """
    path = Path(path)
    try:
        text = json.dumps(payload, allow_nan=False, default=_from_numpy, indent=indent)
    except ValueError:  # walk the payload only if it has a NaN, because results lists are long
        text = json.dumps(_without_nan(payload), allow_nan=False, indent=indent)
    with atomic_write(path) as file:
        file.write((text + "\n").encode())
    return path


def _from_numpy(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _without_nan(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
