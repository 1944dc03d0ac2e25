"""Readers of slide features from .h5, .pt, .npy and .safetensors that execute no code of the file.

A file has ``features`` (N, D) in half, bfloat, single or double precision and, except for npy,
may have ``coords`` (N, 2), level-0 pixels (x, y), and ``instance_labels`` (N,). A leading axis of
length 1 is dropped. Only the rows that are used are read: npy, safetensors and pt are memory-mapped
(not a pt file in the format from before PyTorch 1.6), for h5 see `formats.h5_rows`. Values keep the
precision of the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from formats.extraction import Extraction, extraction_of, stated
from formats.feature_arrays import READERS, Arrays, FeatureKeys, Refused
from formats.h5_rows import read_rows
from formats.slide_features import Origin, origin_of, patch_side, versions_in
from structures import DataProblems, Problem

SUFFIXES = (".h5", ".safetensors", ".npy", ".pt")  # in order of preference

INSTANCE_LABELS = "use 1 for a witness, 0 for another instance and -1 where unknown"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
        extraction: what is needed to extract alike, if the file states it as ours do.
        versions: number of augmented versions of the features.
    """

    instances: int
    width: int
    dtype: torch.dtype
    has_coords: bool
    has_labels: bool = False
    origin: Origin | None = None
    patch_side: float | None = None
    extraction: Extraction | None = None
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
        made = stated(file.attrs)
        side = patch_side(made, {} if coords is None else coords.attrs)
        header = header._replace(patch_side=side, origin=origin_of(made))
        return header._replace(extraction=extraction_of(made), versions=versions_in(file))


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
    features, coords, labels = read_arrays(path, keys, rows)
    known = None if labels is None else _instance_labels(Path(path), labels, keys)
    return FeatureFile(features, None if coords is None else _places(coords), known)


def read_coords(path: Path, keys: FeatureKeys = FeatureKeys()) -> Tensor | None:  # noqa: B008
    """Return the coordinates as `read_features` does, without reading features."""
    with _opened(Path(path), keys) as (_, coords, _labels):
        return None if coords is None else _places(_in_memory(coords, None))


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
def _opened(path: Path, keys: FeatureKeys) -> Iterator[Arrays]:
    """Yield features, coordinates and instance labels, checked by shape and type.

    They are tensors or h5 data sets; the last two are None where the file has none.
    """
    with contextlib.ExitStack() as stack:
        try:
            if not path.is_file():
                raise Refused("no such file", "give the feature file of the slide")
            if path.suffix not in READERS:
                raise Refused(f"unknown suffix {path.suffix!r}", f"use {', '.join(SUFFIXES)}")
            arrays = READERS[path.suffix](path, keys, stack)
            _check(*arrays)
        except Refused as refused:
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
        raise Refused(f"features have shape {tuple(features.shape)}", "store them as (N, D)")
    if _dtype(features) not in _FLOATS:
        raise Refused(f"features are {_dtype(features)}", "store them as float16 or float32")
    if 0 in shape:
        raise Refused(
            f"no instances, features have shape {shape}", "remove the slide or extract it again"
        )
    if labels is not None:
        _check_labels(labels, shape[0])
    if coords is None:
        return
    places = _shape(coords)
    if len(places) != 2 or places[1] != 2:
        raise Refused(f"coords have shape {tuple(coords.shape)}", "store them as (N, 2)")
    if places[0] != shape[0]:
        raise Refused(
            f"{places[0]} coordinates for {shape[0]} instances", "extract features and coords again"
        )
    if _dtype(coords) == torch.bool or _dtype(coords).is_complex:
        raise Refused(f"coords are {_dtype(coords)}", "store them as integers")


def _check_labels(labels: Any, instances: int) -> None:
    shape = tuple(int(extent) for extent in labels.shape)
    if shape != (instances,):
        raise Refused(
            f"instance labels have shape {shape} for {instances} instances",
            "store one label per instance, in the order of the features",
        )
    if _dtype(labels).is_complex:
        raise Refused(f"instance labels are {_dtype(labels)}", "store them as integers")


def _places(coords: Tensor) -> Tensor:
    return coords.float() if coords.is_floating_point() else coords.long()


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
        raise Refused(f"an array holds {array.dtype}", "store numbers")
    return torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype


def _in_memory(array: Any, rows: Tensor | None) -> Tensor:
    if not isinstance(array, Tensor):
        return torch.from_numpy(read_rows(array, None if rows is None else rows.numpy()))
    values = array.reshape(array.shape[-2:]) if array.ndim == 3 else array
    return values if rows is None else values[rows]
