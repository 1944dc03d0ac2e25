"""Weights out of archives that hold whole networks of classes which are not installed.

``torch.save`` of a network writes a zip archive: a pickle that names the classes of all layers,
and one entry of raw values for each storage. `read_foreign_weights` reads the pickle as data
(`foreign_pickle.py`), finds the layers by PyTorch's own attributes ``_modules``, ``_parameters``
and ``_buffers``, and copies the values of the tensors that belong to them; no foreign code is
needed or run. Assumptions A246 to A247.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from formats.weights.foreign_pickle import Record, StoragePlace, TensorPlace, read_pickle

_MAX_PICKLE = 1 << 22  # bytes; a network of scale x with its optimizer takes less than a MiB
_MAX_PARTS, _MAX_DEPTH, _MAX_NAME = 50_000, 40, 500
_BROKEN = (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, struct.error, OSError)


@dataclass(frozen=True, slots=True)
class ForeignWeights:
    """Weights of a network of foreign classes.

    Attributes:
        tensors: by the network's own names, as its ``state_dict`` would give them; floating-point
            numbers are float32.
        part: which of the file's networks: ``ema``, ``model``, or empty for the only one.
        kind: the name of its class.
    """

    tensors: dict[str, Tensor]
    part: str
    kind: str


def read_foreign_weights(path: str | Path) -> ForeignWeights:
    """Read the weights of a network that was saved as a whole, without its classes.

    Of a trainer's file with an averaged network under ``ema`` and one under ``model`` the average
    is taken, as the original does (A247).

    Args:
        path: archive of ``torch.save``.

    Raises:
        ValueError: the file is no archive or broken, holds no network, asks for a call that is
            refused, or its tensors and storages do not agree. The message begins with the path.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as file:
            archive = _Archive(file, path.stat().st_size)
            part, network = _network(read_pickle(archive.pickle()))
            places = dict(_tensors(network))
            archive.check_total(places)
            tensors = {name: archive.tensor(place) for name, place in places.items()}
    except _BROKEN as error:
        raise ValueError(f"{path}: broken archive, cannot be read as weights ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path}: refused: {error}. Nothing in it was executed.") from None
    if not tensors:
        raise ValueError(f"{path}: its network has no weights")
    return ForeignWeights(tensors, part, network.kind.name)


@dataclass
class _Archive:
    """Entries of a torch archive, with limits so that a small file cannot become a large one."""

    file: zipfile.ZipFile
    file_size: int
    _read: dict[StoragePlace, Tensor] = field(default_factory=dict)
    _bytes: int = 0

    def __post_init__(self) -> None:
        names = self.file.namelist()
        roots = [n.removesuffix("/data.pkl") for n in names if n.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(
                "it is a zip archive, but not one of torch.save (one data.pkl expected, found "
                f"{len(roots)})"
            )
        self.root = roots[0]
        order = f"{self.root}/byteorder"
        if order in names and self._entry(order, limit=16) != b"little":
            raise ValueError("its values are not little-endian; save it on another machine")

    def pickle(self) -> bytes:
        return self._entry(f"{self.root}/data.pkl", limit=_MAX_PICKLE)

    def _entry(self, name: str, limit: int, exact: int | None = None) -> bytes:
        try:
            entry = self.file.getinfo(name)
        except KeyError:
            raise ValueError(f"the entry {name[-60:]!r} is missing") from None
        size = entry.file_size
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == size
        if not stored or size > limit:
            raise ValueError(f"the entry {name[-60:]!r} is compressed or larger than {limit} bytes")
        if exact is not None and size != exact:
            raise ValueError(f"the entry {name[-60:]!r} has {size} bytes, its pickle says {exact}")
        return self.file.read(entry)

    def check_total(self, places: dict[str, TensorPlace]) -> None:
        """Refuse tensors that together are larger than the file, copies of the same values."""
        total = sum(math.prod(p.size) * p.storage.dtype.itemsize for p in places.values())
        if total > self.file_size:
            raise ValueError(f"its tensors take {total} bytes, the file has {self.file_size}")

    def tensor(self, place: TensorPlace) -> Tensor:
        """Return a copy of a tensor; floating-point numbers become float32."""
        storage = place.storage
        if storage not in self._read:
            size = storage.numel * storage.dtype.itemsize
            self._bytes += size
            content = self._entry(
                f"{self.root}/data/{storage.key}", limit=self.file_size, exact=size
            )
            if self._bytes > self.file_size:
                raise ValueError("its storages take more bytes than the file has")
            self._read[storage] = (
                torch.frombuffer(bytearray(content), dtype=storage.dtype)
                if content
                else torch.empty(0, dtype=storage.dtype)
            )
        values = self._read[storage]
        if not math.prod(place.size):
            values = values.new_empty(place.size)
        else:
            values = values.as_strided(place.size, place.stride, place.offset)
        kind = torch.float32 if values.is_floating_point() else values.dtype
        return values.to(kind, copy=True, memory_format=torch.contiguous_format)


def _network(content: Any) -> tuple[str, Record]:
    """Choose the network of a file."""
    if isinstance(content, Record):
        return "", content
    if isinstance(content, dict):
        for part in ("ema", "model"):
            if isinstance(content.get(part), Record):
                return part, content[part]
    raise ValueError("it holds no network, neither under 'ema' nor under 'model'")


def _tensors(network: Record) -> Iterator[tuple[str, TensorPlace]]:
    """Walk over the layers of a network; yield names and places of what a state_dict has."""
    waiting, seen = [("", network, 0)], 0
    while waiting:
        prefix, module, depth = waiting.pop()
        parts = [_attribute(module, name) for name in ("_parameters", "_buffers", "_modules")]
        hidden = _hidden(module)
        seen += 1 + len(hidden) + sum(map(len, parts))
        if seen > _MAX_PARTS or depth > _MAX_DEPTH:
            raise ValueError("its layers contain themselves or are too many")
        parameters, buffers, children = parts
        for name, place in (parameters | _without(buffers, hidden)).items():
            if isinstance(place, TensorPlace):
                yield _joined(prefix, name), place
            elif place is not None:
                raise ValueError(f"{(prefix + str(name))[:80]!r} is not a tensor")
        for name, child in reversed(children.items()):
            if isinstance(child, Record):
                waiting.append((_joined(prefix, name) + ".", child, depth + 1))
            elif child is not None:
                raise ValueError(f"{(prefix + str(name))[:80]!r} is not a layer")


def _joined(prefix: str, name: Any) -> str:
    """Return the name of a part; long ones would be copied to all parts below."""
    whole = f"{prefix}{name}"
    if len(whole) > _MAX_NAME or not whole.isprintable():
        raise ValueError(
            f"a part of its network is named {whole[:40]!r} ({len(whole)} characters), refused"
        )
    return whole


def _without(values: dict[Any, Any], hidden: list[Any]) -> dict[Any, Any]:
    return {name: value for name, value in values.items() if name not in hidden}


def _hidden(module: Record) -> list[Any]:
    """Return names of buffers that are not part of a state_dict: a set, so kept as a call."""
    found = module.state.get("_non_persistent_buffers_set")
    names = found.arguments[0] if isinstance(found, Record) and found.arguments else []
    return [n for n in names if isinstance(n, str)] if _short_list(names) else []


def _short_list(names: Any) -> bool:
    return isinstance(names, list) and len(names) < _MAX_DEPTH


def _attribute(module: Record, name: str) -> dict[Any, Any]:
    """Return one of the three dictionaries of a layer."""
    value = module.state.get(name) if isinstance(module.state, dict) else None
    if not isinstance(value, dict):
        raise ValueError(f"{module.kind} is no PyTorch module: it has no {name}")
    return value
