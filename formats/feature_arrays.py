"""Arrays of files of slide features, opened without executing code of the file."""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from formats.weights.archive import check_archive

_SAFETENSORS = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "I16": torch.int16, "I32": torch.int32, "I64": torch.int64, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
STAMP = "feats"  # name of the features in h5 files of STAMP  # A403
_LONGEST_HEADER = 100_000_000  # bytes, the limit of the format
Arrays = tuple[Any, Any, Any]  # features, coordinates or None, instance labels or None


class FeatureKeys(NamedTuple):
    """Names of the arrays in a file; npy and a bare tensor in a pt file need none."""

    features: str = "features"
    coords: str = "coords"
    instance_labels: str = "instance_labels"


class Refused(Exception):  # noqa: N818 - never leaves formats.features
    """Error for a file that cannot be used; the arguments are reason and remedy."""


def _h5(path: Path, keys: FeatureKeys, stack: contextlib.ExitStack) -> Arrays:
    import h5py

    # Without a lock, so that read-only file systems and concurrent readers work.
    file = stack.enter_context(h5py.File(path, "r", locking=False))
    features, coords, labels = (_data_set(file, name) for name in keys)
    if features is None and keys.features == FeatureKeys().features:
        features = _data_set(file, STAMP)
    if features is None:
        raise Refused(f"no data set {keys.features!r}; the file has {sorted(file)}", _NAME_IT)
    return features, coords, labels


_NAME_IT = "name it by features_key, or write the file again"


def _data_set(file: Any, name: str) -> Any:
    import h5py

    found = file.get(name)
    if found is None:
        return None
    if not isinstance(found, h5py.Dataset):
        raise Refused(f"{name!r} is a {type(found).__name__}, not a data set", _NAME_IT)
    if found.size and not found.is_virtual and not found.id.get_storage_size():
        raise Refused(f"data set {name!r} was declared but never written", "write the file again")
    return found


def _npy(path: Path, keys: FeatureKeys, stack: contextlib.ExitStack) -> Arrays:
    del keys, stack
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if reader is None:
            raise Refused(f"npy version {version}", "store a plain array of numbers")
        shape, fortran, dtype = reader(file)
        offset = file.tell()
    if dtype.hasobject:
        raise Refused("refused, because it contains pickled objects", "store an array of numbers")
    if dtype.kind not in "fiub":
        raise Refused(f"an array holds {dtype}", "store numbers")
    kind = torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
    values = _mapped(path, offset, kind, shape[::-1] if fortran else shape)
    if not dtype.isnative:
        values = torch.from_numpy(values.numpy().byteswap())
    return values.permute(*range(values.ndim)[::-1]) if fortran else values, None, None


def _safetensors(path: Path, keys: FeatureKeys, stack: contextlib.ExitStack) -> Arrays:
    del stack
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise Refused(f"broken header of {length} bytes in {size}", "write the file again")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise Refused("its header is not a table of tensors", "write the file again")
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != size:
        raise Refused(f"{size} bytes, its header says {8 + length + end}", "write the file again")
    if keys.features not in header:
        raise Refused(f"no tensor {keys.features!r}; the file has {sorted(header)}", _NAME_IT)

    def tensor(name: str) -> Tensor:
        entry = header[name]
        if entry["dtype"] not in _SAFETENSORS:
            raise Refused(f"{name!r} holds {entry['dtype']}", "store float16 or float32")
        begin, stop = entry["data_offsets"]
        dtype, shape = _SAFETENSORS[entry["dtype"]], tuple(entry["shape"])
        if not 0 <= begin <= stop or stop - begin != math.prod(shape) * dtype.itemsize:
            raise Refused(f"{name!r} of shape {shape} lies at {begin}:{stop}", "write it again")
        return _mapped(path, 8 + length + begin, dtype, shape)

    coords, labels = (tensor(name) if name in header else None for name in keys[1:])
    return tensor(keys.features), coords, labels


def _pt(path: Path, keys: FeatureKeys, stack: contextlib.ExitStack) -> Arrays:
    del stack
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # older files cannot be mapped
    try:
        check_archive(path)
    except ValueError as error:
        raise Refused(f"refused: {error}", "save it by torch.save and do not repack it") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        raise Refused(
            "refused, because it holds more than tensors and plain containers, or is broken",
            "save the tensor of features, or a dictionary of tensors",
        ) from None
    if isinstance(content, Mapping):
        if keys.features not in content:
            names = sorted(str(name) for name in content)[:10]
            raise Refused(f"no entry {keys.features!r}; the file has {names}", _NAME_IT)
        found = [content.get(name) for name in keys]
    else:
        found = [content, None, None]
    coords, labels = (None if part is None else _plain(part) for part in found[1:])
    return _plain(found[0]), coords, labels


def _plain(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        raise Refused(f"has a {type(value).__name__} that is not a dense tensor", "save a tensor")
    return value.detach()


def _mapped(path: Path, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a memory-mapped tensor; writing to it does not change the file."""
    count = math.prod(shape)
    size, needed = path.stat().st_size, offset + count * dtype.itemsize
    if min(shape, default=0) < 0 or needed > size:
        raise Refused(f"truncated: {size} bytes instead of {needed}", "write the file again")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(pages, dtype=dtype, count=count, offset=offset).view(shape)


READERS = {".h5": _h5, ".safetensors": _safetensors, ".npy": _npy, ".pt": _pt}
