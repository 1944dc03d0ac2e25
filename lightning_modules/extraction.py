"""Features of patches by a fixed encoder, for `train.py predict`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.host_memory import keep_freed_memory
from lightning_modules.precision import check_precision
from lightning_modules.rebuilding import class_of, place, without_sources
from structures import PatchBatch

_NEEDED = "input_size", "out_features"


class ExtractionModule(pl.LightningModule):
    """Computes the features of patches; nothing is trained.

    Args:
        encoder: any module from (N, 3, H, W) RGB in [0, 1] to (N, out_features), with its own
            normalisation. Attributes ``input_size``, the side H = W in pixels that it is made for,
            and ``out_features``.

    Raises:
        ValueError: the encoder lacks an attribute.
    """

    only_predicts = True  # the other commands refuse it
    blueprint: dict[str, Any] | None = None  # resolved configuration, set by the command line

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        name = type(encoder).__name__
        for attribute in _NEEDED:
            value = getattr(encoder, attribute, None)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name}.{attribute} is {value!r}; an encoder needs {' and '.join(_NEEDED)}, "
                    "whole numbers of at least 1"
                )
        self.input_size, self.out_features = (int(getattr(encoder, name)) for name in _NEEDED)
        self.encoder = encoder.eval().requires_grad_(False)

    def setup(self, stage: str) -> None:
        """Check the precision."""
        del stage
        check_precision(str(self.trainer.precision))

    def on_predict_start(self) -> None:
        """Check the encoder where it will work."""
        if self.device.type == "cpu":
            keep_freed_memory()
        data: Any = getattr(self.trainer, "datamodule", None)
        self.check_encoder(getattr(data, "patch_px", None) or self.input_size)

    @torch.no_grad()
    def check_encoder(self, side: int) -> None:
        """Encode two blank patches, so that an encoder that does not fit fails at once.

        Args:
            side: side of the patches in pixels.

        Raises:
            ValueError: the encoder fails, or its output is not (N, out_features) numbers.
        """
        name = type(self.encoder).__name__
        blank = torch.ones((2, 3, side, side), device=self.device)
        try:
            found = self.encoder(blank)
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{name} cannot encode patches of {side} pixels ({reason}); set data.patch_px to "
                f"what it is made for ({self.input_size})"
            ) from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != (2, self.out_features):
            raise ValueError(
                f"{name} gives {shape} for 2 patches; its output must be a tensor of "
                f"(2, {self.out_features}), as its out_features says"
            )

    def predict_step(self, batch: PatchBatch, batch_idx: int) -> Tensor:
        """Return (P, D) features, D = out_features; nothing for a batch that could not be read.

        Of a batch with K augmented versions (1 + K, P, D), those of the patches themselves first.
        """
        del batch_idx
        if len(batch) == 0:
            return torch.zeros((0, self.out_features), device=self.device)
        features: Tensor = self.encoder(batch.pixels())
        if batch.versions is None:
            return features
        # One after the other, so that the features of the patches are those without versions.
        versions = [self.encoder(pixels) for pixels in batch.pixels_of_versions()]
        return torch.stack([features, *versions])

    def describe_encoder(self) -> dict[str, Any]:
        """Return what the encoder of the features is.

        ``encoder``, its class with its arguments, ``weights_sha256``, ``input_size`` and
        ``encoder_config``, see `portable_config`. In ``encoder``, arguments that name a source of
        weights are left out: the hash says which these are.
        """
        kind = type(self.encoder)
        section = ((self.blueprint or {}).get("model") or {}).get("init_args", {}).get("encoder")
        section = section or {"class_path": f"{kind.__module__}.{kind.__qualname__}"}
        return {
            "encoder": _text(section),
            "weights_sha256": weights_hash(self.encoder),
            "input_size": self.input_size,
            "encoder_config": portable_config(section),
        }


def _text(section: Mapping[str, Any]) -> str:
    """Return a section of a configuration as ``module.Class(name=value, ...)``."""
    given = without_sources(section).get("init_args") or {}
    sources = getattr(class_of(section), "starts_from", {})
    named = {n: v for n, v in given.items() if v is not None and n not in sources}
    words = (f"{n}={v if isinstance(v, str) else json.dumps(v)}" for n, v in named.items())
    return f"{section['class_path']}({', '.join(words)})"


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 of a module's parameters and buffers, in the order of their names.

    It depends on names, types, shapes and bits, not on the device.
    """
    digest = hashlib.sha256()
    state = module.state_dict()
    for name in sorted(state):
        value = state[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(bits.numpy().tobytes())
    return digest.hexdigest()


def portable_config(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section of an encoder without the files that its weights were read from.

    Names of published weights stay. Where a file was left out, ``from_files`` lists the places of
    these arguments, such as ``init_args.weights``.
    """
    config = json.loads(json.dumps(section))
    places = [p for p in weight_sources(config) if _names_a_file(_argument(config, p))]
    for source in places:
        *parents, last = source.split(".")
        del _argument(config, ".".join(parents))[last]
    return {**config, "from_files": places} if places else config  # A660


def encoder_section(config: Mapping[str, Any], weights: str | None) -> dict[str, Any]:
    """Return the section that builds the encoder of a `portable_config` again.

    Args:
        config: the configuration.
        weights: the source of the weights, if not that of the configuration.

    Raises:
        ValueError: the weights were read from a file and none is given, or the encoder has no
            argument for them, or several.
    """
    section: dict[str, Any] = json.loads(json.dumps(config))
    files = section.pop("from_files", [])
    places = files or list(weight_sources(section))
    name = section["class_path"]
    if weights is None and files:
        raise ValueError(f"{name} reads its weights from a file")
    if weights is None:
        return section
    if len(places) != 1:
        what = f"has {len(places)} of them" if places else "has none"
        raise ValueError(f"{name} {what}: an argument that names a source of weights")
    place(section, places[0], weights)
    return section


def weight_sources(section: Any, prefix: str = "") -> Iterator[str]:
    """Yield the places of the arguments in a section that name a source of weights (A660)."""
    if not isinstance(section, Mapping):
        return
    sources = getattr(class_of(section), "starts_from", {}) if "class_path" in section else {}
    for name, value in section.items():
        if name == "init_args" and isinstance(value, Mapping):
            yield from (f"{prefix}init_args.{argument}" for argument in sources)
        yield from weight_sources(value, f"{prefix}{name}.")


def _argument(section: Any, path: str) -> Any:
    for name in path.split("."):
        section = section.get(name) if isinstance(section, Mapping) else None
    return section


def _names_a_file(value: Any) -> bool:
    return isinstance(value, str) and Path(value).expanduser().exists()
