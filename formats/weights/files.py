"""Reading weight files and checkpoints without executing code in them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from formats.weights.archive import check_archive
from formats.weights.compare import compare_weights
from formats.weights.foreign import ORIGINAL, read_foreign_weights, unpickling_reason


class ForeignContentError(ValueError):
    """Error for a file with more than tensors and plain containers."""


@runtime_checkable
class ConvertsNames(Protocol):
    """A model that can convert the weight names of another implementation."""

    def convert_weights(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights by the names of the model; unknown names are kept.

        Raises:
            ValueError: the weights are of another network.
        """
        ...


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Report on loading the tensors of a weight file.

    Attributes:
        source: the file.
        loaded: number of tensors loaded.
        missing: names the model has and the file lacks.
        unexpected: names the file has and the model lacks.
        mismatched: ``name: shape in file -> shape in model``.
        notes: further remarks on the file.
    """

    source: str
    loaded: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.loaded} tensors loaded from {self.source}"]
        lines += [f"  {note}" for note in self.notes]
        for title in ("missing", "unexpected", "mismatched"):
            names = getattr(self, title)
            if names:
                shown = ", ".join(names[:8])
                if names[8:]:
                    parts = {".".join(name.split(".")[:2]) for name in names[8:]}
                    shown += f" and {len(names) - 8} more in {', '.join(sorted(parts)[:12])}"
                lines.append(f"  {title} ({len(names)}): {shown}")
        return "\n".join(lines)


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint or weight file (torch or safetensors) on the CPU.

    Raises:
        ValueError: the file is missing, broken, or contains anything but tensors and plain
            containers. No code in the file is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint or weight file")
    try:
        content = _read_tensors(path)
    except pickle.UnpicklingError as error:
        if not _starts_as_weights(path):
            raise _no_weights(path) from None
        reason = unpickling_reason(error)
        raise ForeignContentError(
            f"{path}: refused, because it holds more than tensors and plain containers, or is "
            f"broken ({reason}). {_remedy(path, reason)}"
        ) from None
    except Exception as error:  # broken bytes can make the readers raise any error
        if not _starts_as_weights(path):
            raise _no_weights(path) from None
        raise ValueError(f"{path}: broken file, cannot be read as weights ({error!r})") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a state_dict")
    return dict(content)


def _starts_as_weights(path: Path) -> bool:
    """Return whether a file begins like a zip archive or a pickle, or is named .safetensors."""
    with path.open("rb") as stream:
        start = stream.read(4)
    return path.suffix == ".safetensors" or start == b"PK\3\4" or start[:1] == b"\x80"


def _no_weights(path: Path) -> ValueError:
    return ValueError(
        f"{path}: has no weights: it is neither a zip archive nor a pickle; give a checkpoint, "
        "or a file written by torch.save or safetensors"
    )


def _remedy(path: Path, reason: str) -> str:
    if f" {ORIGINAL}" in reason and zipfile.is_zipfile(path):
        return (
            "It seems to be a network of YOLOv8; train from its weights: python train.py fit "
            "--config configs/seg/yolo_n.yaml (or another scale) "
            f"--model.init_args.init_from {path}"
        )
    return "Save a state_dict instead."


def _read_tensors(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    check_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def state_dict_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights in the content of a checkpoint of any trainer or a bare state_dict."""
    state = content
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors and all(k.startswith("model.") for k in tensors):
        return {k.removeprefix("model."): v for k, v in tensors.items()}
    return tensors


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Read initial weights, also from a file with a whole network of foreign classes.

    Returns:
        The weights by the names in the file, and notes on their origin.

    Raises:
        ValueError: see `read_file` and `read_foreign_weights`.
    """
    try:
        return state_dict_of(read_file(path)), []
    except ForeignContentError as error:
        if not zipfile.is_zipfile(path):
            raise ValueError(
                f"{error} Whole networks are read only from zip archives, not from the format "
                "of PyTorch before 1.6."
            ) from None
    foreign = read_foreign_weights(path)
    part = f" under {foreign.part!r}" if foreign.part else ""
    return foreign.tensors, [f"read without its classes from a {foreign.kind}{part}"]


def load_weights(model: nn.Module, path: str | Path) -> LoadReport:
    """Load the weights of a file into a model; tensors of another shape keep their initial value.

    Returns:
        A report on the loaded, missing, unexpected and mismatched tensors.

    Raises:
        ValueError: the file cannot be read, belongs to another network or has no matching tensor.
    """
    wanted = model.state_dict()
    found, notes = read_weights(path)
    if isinstance(model, ConvertsNames):
        try:
            found = model.convert_weights(found)
        except ValueError as error:
            raise ValueError(f"{path} does not fit the model: {error}") from None
    missing, unexpected, mismatched = compare_weights(found, wanted)
    fits = {k: v for k, v in found.items() if k in wanted and k not in mismatched}
    report = LoadReport(
        source=str(path),
        loaded=len(fits),
        missing=missing,
        unexpected=unexpected,
        mismatched=[f"{name}: {theirs} -> {ours}" for name, (theirs, ours) in mismatched.items()],
        notes=notes,
    )
    if not fits:
        raise ValueError(f"nothing in this file fits the model.\n{report}")
    model.load_state_dict(fits, strict=False)
    return report
