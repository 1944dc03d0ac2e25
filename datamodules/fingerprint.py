"""Short hash of the data of a run, independent of the location of the files."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from formats.files import file_digest

WHOLE = 1 << 30  # bytes up to which a file is read completely
_END = 1 << 26  # bytes read at each end of a larger file
_HASHED_SUFFIXES = {".json", ".csv", ".npz", ".yaml", ".yml"}  # annotations, tables, bags


def fingerprint(datamodule: type, arguments: Mapping[str, Any]) -> str:
    """Return a hash of everything that determines the samples of a datamodule.

    The hash covers the arguments defined by the class itself; arguments of the common base class
    (batch size, workers, augmentation) only prepare samples and are left out. A path is replaced by
    its content: the bytes of a file; for a folder, the names of all files in it, the bytes of
    annotation files and tables, and the sizes of all other files (images, features). For files
    above 1 GiB, only both ends and the size are used.  # A77

    Args:
        datamodule: class of the datamodule; arguments that its attribute ``outputs`` names are
            places to write to, and left out; its ``later_defaults`` are the defaults of arguments
            that were added since, which are left out too.
        arguments: arguments of the datamodule as plain values; missing ones have their defaults.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(datamodule.__name__.encode())
    for name, value, path in _arguments(datamodule, arguments):
        digest.update(f"\n{name}=".encode())
        if path is None:
            digest.update(json.dumps(value, sort_keys=True, default=str).encode())
        for line in [] if path is None else _content(path):
            digest.update(line)
    return digest.hexdigest()[:16]


def data_sources(datamodule: type, arguments: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files and folders that `fingerprint` covers, by the names of their arguments."""
    found = _arguments(datamodule, arguments)
    return {name: path for name, _, path in found if path is not None}


def _arguments(
    datamodule: type, arguments: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Path | None]]:
    """Yield name and value of each argument that counts, and the file or folder that it names."""
    later: Mapping[str, Any] = getattr(datamodule, "later_defaults", {})
    for name, parameter in inspect.signature(datamodule).parameters.items():
        written = getattr(datamodule, "outputs", ())
        if parameter.kind is inspect.Parameter.VAR_KEYWORD or name in written:
            continue
        value = arguments.get(name, parameter.default)
        if value is None or later.get(name) == value:  # a new option changes no existing hash
            continue
        path = Path(str(value)) if "Path" in str(parameter.annotation) else None
        exists = path is not None and (path.is_file() or path.is_dir())
        yield name, value, path if exists else None


def content_hash(sources: Mapping[str, Path]) -> str:
    """Return a hash of files and folders by name, which covers what `fingerprint` covers of them.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, path in sources.items():
        digest.update(f"\n{name}=".encode())
        for line in _content(path):
            digest.update(line)
    return digest.hexdigest()[:16]


def _content(path: Path) -> Iterator[bytes]:
    if path.is_file():
        yield file_digest(path, WHOLE, _END)
    else:
        yield from _listing(path)


def _listing(folder: Path) -> Iterator[bytes]:
    """Yield one line for each file below a folder, in the order of the names."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            exists = path.is_file()  # a link may be broken
            size = path.stat().st_size if exists else -1
            line = f"\n{path.relative_to(folder).as_posix()} {size}".encode()
            read = exists and path.suffix.lower() in _HASHED_SUFFIXES
            yield line + file_digest(path, WHOLE, _END) if read else line
