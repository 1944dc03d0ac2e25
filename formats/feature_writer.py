"""Conversion of a feature file to h5 with large chunks, safetensors or npy, bit for bit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from formats.feature_arrays import STAMP, FeatureKeys
from formats.features import read_arrays
from formats.files import atomic_write
from structures import DataProblems, Problem

Form = Literal["h5", "safetensors", "npy"]

_CHUNK = 1 << 20  # bytes: reading few rows stays cheap, and the time for each chunk is negligible
_WHOLE_NUMBERS = (torch.int16, torch.int32, torch.int64)  # that our reader of safetensors knows


def check_type(source: Path, form: str, *arrays: torch.dtype) -> None:
    """Refuse types of number that a format does not have.

    Raises:
        DataProblems: an array is bfloat16 and the format is h5 or npy.
    """
    if form != "safetensors" and torch.bfloat16 in arrays:
        reason, remedy = f"holds bfloat16, which {form} does not have", "use the format safetensors"
        raise DataProblems([Problem(source, None, None, reason, remedy, kind="slide")])


def convert_file(source: Path, target: Path, keys: FeatureKeys) -> None:
    """Write the arrays of a feature file into another, whose suffix is the format.

    The arrays keep their names, types and bits; unsigned coordinates become int64 in safetensors.
    From h5 to h5, all other content is copied too. The new file appears under its name only when it
    is complete, and is read back before the function returns.

    Raises:
        DataProblems: the source cannot be read, or the format has no such type of number.
    """
    arrays = read_arrays(source, keys)
    form = target.suffix[1:]
    check_type(source, form, *(a.dtype for a in arrays if a is not None))
    names = {field: getattr(keys, field, field) for field in arrays._fields}
    named = {names[field]: a for field, a in arrays._asdict().items() if a is not None}
    if form == "npy":
        content = io.BytesIO()
        np.save(content, arrays.features.numpy())
        written: Any = content.getbuffer()
    elif form == "safetensors":
        written = _safetensors(named)
    else:
        written = _h5(named, source if source.suffix == ".h5" else None)
    with atomic_write(target) as file:
        file.write(written)
    found = zip(arrays, read_arrays(target, keys), strict=True)
    if not all(_equal(a, b) for a, b in found if a is not None and b is not None):
        target.unlink()
        raise OSError(f"{target}: differs from {source} when it is read back; check the disk")


def _safetensors(arrays: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    known = {
        name: array if array.is_floating_point() or array.dtype in _WHOLE_NUMBERS else array.long()
        for name, array in arrays.items()
    }
    return save({name: array.contiguous() for name, array in known.items()})


def _h5(arrays: dict[str, Tensor], source: Path | None) -> bytes:
    """Return an h5 file of the arrays, and of all other content of a source in h5."""
    import h5py

    core = {"driver": "core", "backing_store": False, "block_size": 1 << 24}
    with h5py.File("new", "w", **core) as file:
        for name, array in arrays.items():
            rows = min(len(array), max(1, _CHUNK // array[0].nbytes))
            file.create_dataset(name, data=array.numpy(), chunks=(rows, *array.shape[1:]))
        if source is not None:
            with h5py.File(source, "r", locking=False) as old:
                default = FeatureKeys().features  # the name that STAMP's features get
                renamed = {STAMP: default} if default in arrays and default not in old else {}
                for name in old:
                    if renamed.get(name, name) in file:
                        file[renamed.get(name, name)].attrs.update(old[name].attrs)
                    else:
                        old.copy(name, file)
                file.attrs.update(old.attrs)
        file.flush()
        content: bytes = file.id.get_file_image()
    return content


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two arrays have the same bits; whole numbers may have another type."""
    if ours.dtype != theirs.dtype and theirs.is_floating_point():
        return False
    return torch.equal(_bits(ours.to(theirs.dtype)), _bits(theirs))


def _bits(array: Tensor) -> Tensor:
    return array.contiguous().view(torch.uint8)
