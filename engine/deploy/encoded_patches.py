"""Bags whose features are those of patches in image files, encoded when a bag is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from datamodules.mil.standardisation import Standardisation
from datamodules.transforms.patch_shifts import shift_patches
from engine.deploy.bags import BagPredictor
from engine.deploy.shifted_bags import bag_name
from evaluation.robustness.corruptions import image_seed
from formats.images import read_rgb
from lightning_modules.extraction import ExtractionModule, weights_hash
from structures import BagBatch, DataProblems, Problem
from structures.own_functions import imported

_AT_ONCE = 64  # patches that are read, shifted and encoded together


@dataclass(frozen=True)
class Encoder:
    """An encoder of patches.

    Attributes:
        name: what the user calls it.
        module: (N, 3, H, W) RGB in [0, 1] to (N, D), in eval mode.
        width: D.
        side: H = W that it is made for.
        weights: hash of its weights.
    """

    name: str
    module: nn.Module
    width: int
    side: int
    weights: str

    @torch.no_grad()
    def encode(self, patches: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Return the (N, D) float32 features of patches (N, H, W, 3)."""
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        pixels = torch.from_numpy(patches).to(device).permute(0, 3, 1, 2).float().div_(255)
        features: torch.Tensor = self.module(pixels)
        return features.float().cpu()


def make_encoder(name: str | None) -> Encoder:
    """Return the encoder of a dotted name, or the packaged EfficientNet, on a GPU if there is one.

    Args:
        name: a class or function without arguments, which returns a module as those of
            `lightning_modules.extraction.ExtractionModule`; or None.

    Raises:
        ValueError: there is no such name, or what it makes is no encoder.
    """
    if name is None:
        from models.backbones.patch_encoder import TimmEncoder

        module: Any = TimmEncoder("tf_efficientnet_lite0", weights="efficientnet_lite0")
        told = "the packaged EfficientNet"
    else:
        told = name
        if "." not in name:
            raise ValueError(f"--encoder {name} is not a dotted name; write package.module.Class")
        try:
            module = imported(name)()
        except TypeError as error:
            raise ValueError(f"--encoder {name} is called without arguments: {error}") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"--encoder {told} makes a {type(module).__name__}, not a torch module")
    extraction = ExtractionModule(module)
    extraction.check_encoder(extraction.input_size)
    if torch.cuda.is_available():
        module.cuda()
    side, width = extraction.input_size, extraction.out_features
    return Encoder(told, module.eval(), width, side, weights_hash(module))


class PatchFolder:
    """Patches of bags in the files ``DIR/<bag>/*.png``, sorted by name.

    Args:
        folder: DIR.
        bags: ids of the bags.
        side: height and width that each patch needs.

    Attributes:
        files: the patches of each bag.
        hash: 16 hexadecimal digits that follow from names and pixels of all patches.

    Raises:
        DataProblems: a bag has no folder or no patches, or a patch cannot be read or has another
            size.
    """

    def __init__(self, folder: Path, bags: Sequence[str], side: int) -> None:
        self.files: dict[str, list[Path]] = {}
        problems: list[Problem] = []
        digest = hashlib.sha256()
        for bag in bags:
            self.files[bag] = sorted((folder / bag).glob("*.png"))
            for file in self.files[bag]:
                try:
                    pixels = _read(file, side)
                except ValueError as error:
                    problems.append(
                        Problem(file, bag, None, str(error), "write the patch again", "bag")
                    )
                    continue
                digest.update(f"\n{bag}/{file.name}\n".encode())
                digest.update(pixels.tobytes())
            if not self.files[bag]:
                what = "no PNG" if (folder / bag).is_dir() else "no folder"
                remedy = f"write its patches as {folder / bag}/*.png, or remove the bag"
                problems.append(Problem(folder, bag, None, f"{what} of the bag", remedy, "bag"))
        if problems:
            raise DataProblems(problems)
        self.side, self.hash = side, digest.hexdigest()[:16]

    def read(self, bag: str) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield (n, H, W, 3) patches of a bag, a few at a time."""
        files = self.files[bag]
        for start in range(0, len(files), _AT_ONCE):
            yield np.stack([_read(file, self.side) for file in files[start : start + _AT_ONCE]])


def _read(file: Path, side: int) -> npt.NDArray[np.uint8]:
    pixels = read_rgb(file)
    if pixels.shape[:2] != (side, side):
        height, width = pixels.shape[:2]
        raise ValueError(
            f"is {width} x {height} pixels; the encoder needs {side} x {side} and does not resize"
        )
    return pixels


class PatchFeatures:
    """Features of shifted patches, encoded when they are asked for.

    Those of one cell are kept for the other models, as far as they fit.

    Args:
        folder: the patches.
        encoder: their encoder.
        seed: of the evaluation; draws follow from it, the id of the bag, shift and severity (A805).
        keep: bytes of features to keep, or 0.
    """

    def __init__(self, folder: PatchFolder, encoder: Encoder, seed: int, keep: int = 0) -> None:
        self.folder, self.encoder, self.seed, self._keep = folder, encoder, seed, keep
        self._cell: tuple[str | None, int] = (None, 0)
        self._kept: dict[str, torch.Tensor] = {}
        self._bytes = 0

    def of(self, bag: str, shift: str | None, severity: int) -> torch.Tensor:
        """Return the (n, D) features of a bag's patches.

        Args:
            bag: id of the bag.
            shift: see `datamodules.transforms.patch_shifts.shift_patches`; None for none.
            severity: 1 to 5; 0 without a shift.

        Raises:
            ValueError: a feature is no finite number; the message names the bag.
        """
        if (shift, severity) != self._cell:
            self._cell, self._kept, self._bytes = (shift, severity), {}, 0
        if bag in self._kept:
            return self._kept[bag]
        found = []
        for patches in self.folder.read(bag):
            if shift is not None:
                seed = image_seed(self.seed, bag, shift, severity)
                patches = shift_patches(patches, shift, severity, seed)  # noqa: PLW2901
            found.append(self.encoder.encode(patches))
        features = torch.cat(found)
        if not bool(features.isfinite().all()):
            raise ValueError(f"bag {bag}: {self.encoder.name} gives features that are not finite")
        if self._bytes + features.nbytes <= self._keep:
            self._kept[bag] = features
            self._bytes += features.nbytes
        return features


@dataclass(frozen=True)
class EncodedShift:
    """Gives bags the features of their patches, which are shifted before.

    Coordinates and labels of instances are those of other patches, and left out (A813).

    Attributes:
        features: of the patches.
        shift: see `PatchFeatures.of`.
        severity: see `PatchFeatures.of`.
        standardisation: of the features for the model, or None.
    """

    features: PatchFeatures
    shift: str | None = None
    severity: int = 0
    standardisation: Standardisation | None = None

    def __call__(self, bag: BagBatch) -> BagBatch:
        """Return a bag with the features of its shifted patches."""
        features = self.features.of(bag_name(bag), self.shift, self.severity)
        if self.standardisation is not None:
            features = self.standardisation.apply(features.numpy())
        return replace(
            bag,
            features=features,
            offsets=bag.offsets.new_tensor([0, len(features)]),
            coords=None,
            instance_labels=None,
            instance_index=None,
        )


def check_encoder(predictor: BagPredictor, encoder: Encoder) -> None:
    """Check that a model has been trained on the features of an encoder, as far as that is known.

    Args:
        predictor: a checkpoint and bags.
        encoder: the encoder.

    Raises:
        ValueError: the widths differ, or the checkpoint knows that its features are others.
    """
    width, checkpoint = predictor.data.in_features, predictor.files[0]
    if width != encoder.width:
        raise ValueError(
            f"{checkpoint}: takes {width} features, and {encoder.name} gives {encoder.width}; name "
            "the encoder of its training by --encoder"
        )
    facts: Mapping[str, Any] = predictor.restored.facts.get("extraction") or {}
    known = facts.get("weights_sha256")
    if known is not None and known != encoder.weights:
        trained = facts.get("encoder", "another encoder")
        raise ValueError(
            f"{checkpoint}: was trained on features of {trained} with the weights {known[:12]}, "
            f"and {encoder.name} has {encoder.weights[:12]}; name that encoder by --encoder"
        )
