"""Reading weight files and checkpoints without executing code in them."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.serialization import safe_globals

from formats.weights.archive import check_archive
from formats.weights.compare import compare_weights
from formats.weights.foreign import ORIGINAL, read_foreign_weights, unpickling_reason
from formats.weights.public import (
    for_four_channels,
    names_without_file,
    recognised,
    set_frozen_eps,
)
from formats.weights.report import LoadReport, backbone_fault, without_counters


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


class InitialWeights(NamedTuple):
    """Weights to start from.

    Attributes:
        tensors: weights by the names in the file.
        notes: remarks on their origin.
        own: whether the file is a checkpoint of `train.py`.
        norm_eps: epsilon that such a checkpoint states for frozen norms, or None.
    """

    tensors: dict[str, Tensor]
    notes: list[str]
    own: bool = False
    norm_eps: float | None = None


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
    # the arguments of a training, which timm and torchvision save beside the weights (A300)
    with safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def state_dict_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights in the content of a checkpoint of any trainer or a bare state_dict.

    Averages that timm and torchvision save beside the weights are preferred (A300).
    """
    state = content
    for keys in (("state_dict_ema", "state_dict"), ("model_ema", "model")):
        state = next((state[k] for k in keys if isinstance(state.get(k), Mapping)), state)
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    tensors.pop("n_averaged", None)  # counter of torch.optim.swa_utils.AveragedModel
    for prefix in ("module.", "model."):  # of parallel training, of a LightningModule
        if tensors and all(k.startswith(prefix) for k in tensors):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return tensors


def read_weights(path: str | Path) -> InitialWeights:
    """Read initial weights, also from a file with a whole network of foreign classes.

    Raises:
        ValueError: see `read_file` and `read_foreign_weights`.
    """
    try:
        content = read_file(path)
    except ForeignContentError as error:
        if not zipfile.is_zipfile(path):
            raise ValueError(
                f"{error} Whole networks are read only from zip archives, not from the format "
                "of PyTorch before 1.6."
            ) from None
        foreign = read_foreign_weights(path)
        part = f" under {foreign.part!r}" if foreign.part else ""
        note = f"read without its classes from a {foreign.kind}{part}"
        return InitialWeights(foreign.tensors, [note])
    record = content.get("segmil")
    facts = record.get("facts") if isinstance(record, Mapping) else None
    eps = facts.get("norm_eps") if isinstance(facts, Mapping) else None
    own_eps = float(eps) if isinstance(eps, int | float) else None
    return InitialWeights(state_dict_of(content), [], record is not None, own_eps)


def load_weights(model: nn.Module, path: str | Path) -> LoadReport:
    """Load the weights of a file into a model; tensors of another shape keep their initial value.

    Public files that the model knows (`KnowsPublicWeights`) are renamed. A kernel of RGB images
    is converted for a network of four channels.

    Returns:
        A report on the loaded, missing, unexpected and mismatched tensors.

    Raises:
        ValueError: the file cannot be read, belongs to another network, has no matching tensor or
            less than 90 % of the backbone's, not counting layers that no public file has.
    """
    found, notes, own, eps = read_weights(path)
    wanted = model.state_dict()
    try:
        public = None if own else recognised(model, found)
        if public is not None:
            _, found, eps = public
            notes = [*notes, f"recognised: {public.kind}"]
        elif isinstance(model, ConvertsNames):
            found = model.convert_weights(found)
    except ValueError as error:
        raise ValueError(f"{path} does not fit the model: {error}") from None
    converted = for_four_channels(found, wanted)
    if converted:
        found = {**found, **converted}
        notes = [*notes, f"converted from RGB to R, Gr, B, Gb: {', '.join(converted)}"]
    missing, unexpected, mismatched = compare_weights(found, wanted)
    fits = {k: v for k, v in found.items() if k in wanted and k not in mismatched}
    report = LoadReport(
        source=str(path),
        loaded=len(fits),
        missing=without_counters(missing),
        unexpected=without_counters(unexpected),
        mismatched=[f"{name}: {theirs} -> {ours}" for name, (theirs, ours) in mismatched.items()],
        notes=notes if eps is None else [*notes, f"eps of the frozen norms: {eps:g}"],
        norm_eps=eps,
    )
    if not fits:
        raise ValueError(f"nothing in this file fits the model.\n{report}")
    added = names_without_file(model)
    fault = backbone_fault(found, {k: v for k, v in wanted.items() if k not in added}, fits)
    if fault is not None:
        raise ValueError(f"{path} does not fit the model: {fault}.\n{report}")
    model.load_state_dict(fits, strict=False)
    if eps is not None:
        set_frozen_eps(model, eps)
    return report
