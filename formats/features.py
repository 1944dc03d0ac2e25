"""Readers of slide features from .h5, .pt, .npy and .safetensors that execute no code of the file.

A file has ``features`` (N, D) in half, bfloat, single or double precision and, except for npy,
may have ``coords`` (N, 2), level-0 pixels (x, y), and ``instance_labels`` (N,). A leading axis of
length 1 is dropped. Only the rows that are used are read: npy, safetensors and pt are memory-mapped
(not a pt file in the format from before PyTorch 1.6), for h5 see `formats.h5_rows`. Values keep the
precision of the file.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from formats.h5_rows import read_rows
from formats.slide_features import Origin, origin_of, patch_side, versions_in
from formats.weights.archive import check_archive
from structures import DataProblems, Problem

SUFFIXES = (".h5", ".safetensors", ".npy", ".pt")  # in order of preference

INSTANCE_LABELS = "use 1 for a witness, 0 for another instance and -1 where unknown"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SAFETENSORS = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "I16": torch.int16, "I32": torch.int32, "I64": torch.int64, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
STAMP = "feats"  # name of the features in h5 files of STAMP  # A403
_LONGEST_HEADER = 100_000_000  # bytes, the limit of the format


class FeatureKeys(NamedTuple):
    """Names of the arrays in a file; npy and a bare tensor in a pt file need none."""

    features: str = "features"
    coords: str = "coords"
    instance_labels: str = "instance_labels"


class FeatureHeader(NamedTuple):
    """Shape and type of the arrays in a file.

    Attributes:
        instances: N.
        width: D.
        dtype: dtype of the features on disk.
        has_coords: whether the file has coordinates.
        has_labels: whether the file has instance labels.
        origin: encoder and patches, if the file states them as ours do.
        patch_side: side of a patch in level-0 pixels, if the file states it.
        versions: number of augmented versions of the features.
    """

    instances: int
    width: int
    dtype: torch.dtype
    has_coords: bool
    has_labels: bool = False
    origin: Origin | None = None
    patch_side: float | None = None
    versions: int = 0


class FeatureFile(NamedTuple):
    """The features of one slide.

    Attributes:
        features: (N, D) in the precision of the file; mapped from disk except for h5.
        coords: (N, 2) level-0 pixels (x, y), int64 or float32, or None.
        instance_labels: (N,) int64: 1 for a witness, 0 for another instance, -1 where unknown; or
            None.
    """

    features: Tensor
    coords: Tensor | None
    instance_labels: Tensor | None = None

    def at(self, rows: Tensor) -> FeatureFile:
        """Return copies of some rows."""
        return FeatureFile._make(None if array is None else array[rows] for array in self)


_Arrays = tuple[Any, Any, Any]  # features, coordinates or None, instance labels or None


class _Refused(Exception):  # noqa: N818 - never leaves this file
    """A file cannot be used; the arguments are reason and remedy."""


def read_header(path: Path, keys: FeatureKeys = FeatureKeys()) -> FeatureHeader:  # noqa: B008
    """Return the header of a file, without reading features.

    Raises:
        DataProblems: the file is missing, broken, contains code, or its arrays have a wrong shape
            or type, are empty, or differ in length; or an instance label is none.
    """
    with _opened(Path(path), keys) as (features, coords, labels):
        rows, width = features.shape[-2:]
        if labels is not None:  # a byte per instance or so, which is read to check it
            _instance_labels(Path(path), _in_memory(labels, None), keys)
        known = coords is not None, labels is not None
        header = FeatureHeader(rows, width, _dtype(features), *known)
        file = getattr(features, "file", None)  # an h5 file may say how it was made
        if file is None:
            return header
        side = patch_side(file.attrs, {} if coords is None else coords.attrs)
        origin, versions = origin_of(file.attrs), versions_in(file)
        return header._replace(origin=origin, patch_side=side, versions=versions)


def read_features(
    path: Path,
    keys: FeatureKeys = FeatureKeys(),  # noqa: B008
    rows: Tensor | None = None,
) -> FeatureFile:
    """Return the arrays of a file; the values of features and coordinates are unchecked.

    Coordinates become int64, or float32 if they are floating-point numbers.

    Args:
        path: the file; its suffix determines the format.
        keys: names of the arrays.
        rows: (n,) int64, ascending numbers of the rows to read; None for all.

    Raises:
        DataProblems: see `read_header`.
    """
    found = read_arrays(path, keys, rows)
    places = found.coords
    if places is not None:
        places = places.float() if places.is_floating_point() else places.long()
    labels = found.instance_labels
    known = None if labels is None else _instance_labels(Path(path), labels, keys)
    return found._replace(coords=places, instance_labels=known)


def read_arrays(
    path: Path,
    keys: FeatureKeys = FeatureKeys(),  # noqa: B008
    rows: Tensor | None = None,
) -> FeatureFile:
    """Return the arrays as they are stored; see `read_features`."""
    with _opened(Path(path), keys) as arrays:
        return FeatureFile._make(None if a is None else _in_memory(a, rows) for a in arrays)


def at_most_single(features: Tensor) -> Tensor:
    """Return float32 for features in double precision, others unchanged (A60)."""
    return features.to(torch.float32) if features.dtype == torch.float64 else features


def first_not_finite(features: Tensor) -> tuple[int, int] | None:
    """Return row and column of the first NaN or infinite value of (N, D), or None."""
    # One pass without a temporary; both extremes are NaN if any value is.
    low, high = torch.aminmax(features)
    if bool(torch.isfinite(low) & torch.isfinite(high)):
        return None
    row, column = torch.nonzero(~torch.isfinite(features))[0].tolist()
    return row, column


@contextlib.contextmanager
def _opened(path: Path, keys: FeatureKeys) -> Iterator[_Arrays]:
    """Yield features, coordinates and instance labels, checked by shape and type.

    They are tensors or h5 data sets; the last two are None where the file has none.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not path.is_file():
                raise _Refused("no such file", "give the feature file of the slide")
            if path.suffix not in _READERS:
                raise _Refused(f"unknown suffix {path.suffix!r}", f"use {', '.join(SUFFIXES)}")
            arrays = _READERS[path.suffix](path, keys, stack)
            _check(*arrays)
        except _Refused as refused:
            raise _problem(path, *refused.args) from None
        except Exception as error:  # broken bytes can make the readers raise any error
            reason = " ".join(str(error).split(". ")[0].split())[:120] or type(error).__name__
            raise _problem(
                path, f"cannot be read as {path.suffix} ({reason})", "write the file again"
            ) from None
        try:
            yield arrays
        except (OSError, MemoryError) as error:  # h5 reads its values only now
            raise _problem(path, f"cannot be read ({error})", "write the file again") from None


def _problem(path: Path, reason: str, remedy: str) -> DataProblems:
    return DataProblems([Problem(path, None, None, reason, remedy, kind="slide")])


def _check(features: Any, coords: Any, labels: Any) -> None:
    shape = _shape(features)
    if len(shape) != 2:
        raise _Refused(f"features have shape {tuple(features.shape)}", "store them as (N, D)")
    if _dtype(features) not in _FLOATS:
        raise _Refused(f"features are {_dtype(features)}", "store them as float16 or float32")
    if 0 in shape:
        raise _Refused(
            f"no instances, features have shape {shape}", "remove the slide or extract it again"
        )
    if labels is not None:
        _check_labels(labels, shape[0])
    if coords is None:
        return
    places = _shape(coords)
    if len(places) != 2 or places[1] != 2:
        raise _Refused(f"coords have shape {tuple(coords.shape)}", "store them as (N, 2)")
    if places[0] != shape[0]:
        raise _Refused(
            f"{places[0]} coordinates for {shape[0]} instances", "extract features and coords again"
        )
    if _dtype(coords) == torch.bool or _dtype(coords).is_complex:
        raise _Refused(f"coords are {_dtype(coords)}", "store them as integers")


def _check_labels(labels: Any, instances: int) -> None:
    shape = tuple(int(extent) for extent in labels.shape)
    if shape != (instances,):
        raise _Refused(
            f"instance labels have shape {shape} for {instances} instances",
            "store one label per instance, in the order of the features",
        )
    if _dtype(labels).is_complex:
        raise _Refused(f"instance labels are {_dtype(labels)}", "store them as integers")


def _instance_labels(path: Path, labels: Tensor, keys: FeatureKeys) -> Tensor:
    values = labels.double()  # -1 is 255 as a byte
    wrong = (values != 0) & (values != 1) & (values != -1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        reason = f"{keys.instance_labels} has {values[row].item():g} in row {row}"
        raise _problem(path, reason, INSTANCE_LABELS)
    return values.long()


def _shape(array: Any) -> tuple[int, ...]:
    shape = tuple(int(extent) for extent in array.shape)
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _dtype(array: Any) -> torch.dtype:
    if isinstance(array, Tensor):
        return array.dtype
    if array.dtype.kind not in "fiub":
        raise _Refused(f"an array holds {array.dtype}", "store numbers")
    return torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype


def _in_memory(array: Any, rows: Tensor | None) -> Tensor:
    if not isinstance(array, Tensor):
        return torch.from_numpy(read_rows(array, None if rows is None else rows.numpy()))
    values = array.reshape(array.shape[-2:]) if array.ndim == 3 else array
    return values if rows is None else values[rows]


def _h5(path: Path, keys: FeatureKeys, stack: contextlib.ExitStack) -> _Arrays:
    import h5py

    # Without a lock, so that read-only file systems and concurrent readers work.
    file = stack.enter_context(h5py.File(path, "r", locking=False))
    features, coords, labels = (_data_set(file, name) for name in keys)
    if features is None and keys.features == FeatureKeys().features:
        features = _data_set(file, STAMP)
    if features is None:
        raise _Refused(f"no data set {keys.features!r}; the file has {sorted(file)}", _NAME_IT)
    return features, coords, labels


_NAME_IT = "name it by features_key, or write the file again"


def _data_set(file: Any, name: str) -> Any:
    import h5py

    found = file.get(name)
    if found is None:
        return None
    if not isinstance(found, h5py.Dataset):
        raise _Refused(f"{name!r} is a {type(found).__name__}, not a data set", _NAME_IT)
    if found.size and not found.is_virtual and not found.id.get_storage_size():
        raise _Refused(f"data set {name!r} was declared but never written", "write the file again")
    return found


def _npy(path: Path, keys: FeatureKeys, stack: contextlib.ExitStack) -> _Arrays:
    del keys, stack
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if reader is None:
            raise _Refused(f"npy version {version}", "store a plain array of numbers")
        shape, fortran, dtype = reader(file)
        offset = file.tell()
    if dtype.hasobject:
        raise _Refused("refused, because it contains pickled objects", "store an array of numbers")
    if dtype.kind not in "fiub":
        raise _Refused(f"an array holds {dtype}", "store numbers")
    kind = torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
    values = _mapped(path, offset, kind, shape[::-1] if fortran else shape)
    if not dtype.isnative:
        values = torch.from_numpy(values.numpy().byteswap())
    return values.permute(*range(values.ndim)[::-1]) if fortran else values, None, None


def _safetensors(path: Path, keys: FeatureKeys, stack: contextlib.ExitStack) -> _Arrays:
    del stack
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise _Refused(f"broken header of {length} bytes in {size}", "write the file again")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise _Refused("its header is not a table of tensors", "write the file again")
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != size:
        raise _Refused(f"{size} bytes, its header says {8 + length + end}", "write the file again")
    if keys.features not in header:
        raise _Refused(f"no tensor {keys.features!r}; the file has {sorted(header)}", _NAME_IT)

    def tensor(name: str) -> Tensor:
        entry = header[name]
        if entry["dtype"] not in _SAFETENSORS:
            raise _Refused(f"{name!r} holds {entry['dtype']}", "store float16 or float32")
        begin, stop = entry["data_offsets"]
        dtype, shape = _SAFETENSORS[entry["dtype"]], tuple(entry["shape"])
        if not 0 <= begin <= stop or stop - begin != math.prod(shape) * dtype.itemsize:
            raise _Refused(f"{name!r} of shape {shape} lies at {begin}:{stop}", "write it again")
        return _mapped(path, 8 + length + begin, dtype, shape)

    coords, labels = (tensor(name) if name in header else None for name in keys[1:])
    return tensor(keys.features), coords, labels


def _pt(path: Path, keys: FeatureKeys, stack: contextlib.ExitStack) -> _Arrays:
    del stack
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # older files cannot be mapped
    try:
        check_archive(path)
    except ValueError as error:
        raise _Refused(f"refused: {error}", "save it by torch.save and do not repack it") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        raise _Refused(
            "refused, because it holds more than tensors and plain containers, or is broken",
            "save the tensor of features, or a dictionary of tensors",
        ) from None
    if isinstance(content, Mapping):
        if keys.features not in content:
            names = sorted(str(name) for name in content)[:10]
            raise _Refused(f"no entry {keys.features!r}; the file has {names}", _NAME_IT)
        found = [content.get(name) for name in keys]
    else:
        found = [content, None, None]
    coords, labels = (None if part is None else _plain(part) for part in found[1:])
    return _plain(found[0]), coords, labels


def _plain(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        raise _Refused(f"has a {type(value).__name__} that is not a dense tensor", "save a tensor")
    return value.detach()


def _mapped(path: Path, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a memory-mapped tensor; writing to it does not change the file."""
    count = math.prod(shape)
    size, needed = path.stat().st_size, offset + count * dtype.itemsize
    if min(shape, default=0) < 0 or needed > size:
        raise _Refused(f"truncated: {size} bytes instead of {needed}", "write the file again")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(pages, dtype=dtype, count=count, offset=offset).view(shape)


_READERS = {".h5": _h5, ".safetensors": _safetensors, ".npy": _npy, ".pt": _pt}
