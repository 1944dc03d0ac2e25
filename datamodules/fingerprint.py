"""One short word for the data of a run: equal data give equal words, wherever they lie."""

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
_END = 1 << 26  # bytes read at either end of a larger one
_READ = {".json", ".csv", ".npz", ".yaml", ".yml"}  # annotations, tables, bags


def fingerprint(datamodule: type, arguments: Mapping[str, Any]) -> str:
    """Hash what decides which samples a datamodule serves.

    That are the arguments that its class itself names; those of the common base (batch size,
    workers, augmentation) say how samples are prepared and are left out. A path counts with what
    it leads to, not with its name: a file with its bytes, a folder with the names of everything in
    it, the bytes of annotation files and tables and the sizes of all others (images, features).
    Of files above 1 GiB the two ends and the size are read.  # A77

    Args:
        datamodule: class of the datamodule.
        arguments: its arguments as plain values; missing ones are at their defaults.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(datamodule.__name__.encode())
    for name, parameter in inspect.signature(datamodule).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        value = arguments.get(name, parameter.default)
        if value is None:  # so that a new option leaves old words as they are
            continue
        digest.update(f"\n{name}=".encode())
        path = Path(str(value)) if "Path" in str(parameter.annotation) else None
        if path is not None and path.is_file():
            digest.update(file_digest(path, WHOLE, _END))
        elif path is not None and path.is_dir():
            for line in _listing(path):
                digest.update(line)
        else:
            digest.update(json.dumps(value, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _listing(folder: Path) -> Iterator[bytes]:
    """Yield a line for each file below a folder, in the order of their names."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            there = path.is_file()  # a link may lead nowhere
            size = path.stat().st_size if there else -1
            line = f"\n{path.relative_to(folder).as_posix()} {size}".encode()
            read = there and path.suffix.lower() in _READ
            yield line + file_digest(path, WHOLE, _END) if read else line
