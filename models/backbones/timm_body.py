"""timm models with outputs at chosen strides: weights, norms and frozen stages.

Convolutional networks and Swin, see `models.backbones.shifted_windows`.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from models.backbones.download import create_timm
from models.backbones.in_channels import set_in_channels
from models.backbones.lazy_timm import load_timm
from models.backbones.low_light import LowPassOptions, add_low_pass
from models.backbones.norm import Norm, convert_norm
from models.backbones.shifted_windows import is_swin, pad_before_shift
from models.backbones.weights import load_backbone_weights


def build_timm_body(
    name: str,
    strides: tuple[int, ...],
    norm: Norm,
    pretrained: bool,
    weights: str | None,
    trainable_stages: int | None,
    *,
    low_pass: LowPassOptions | None = None,
    in_channels: int = 3,
    drop_path: float = 0.0,
) -> Any:
    """Return timm's feature extractor for a model name.

    Args:
        name: timm model name, for example ``resnet18``.
        strides: strides of its outputs, each twice the one before.
        norm: normalisation that replaces the model's batch norms.
        pretrained: load timm's own weights, which timm downloads unless they are in its cache.
        weights: see ``load_backbone_weights``, or None.
        trainable_stages: number of trainable stages, counted from the coarsest; None for all. A
            stage ends where the resolution falls; the stem is part of the first.
        low_pass: see ``add_low_pass``.
        in_channels: see ``set_in_channels``.
        drop_path: rate of stochastic depth of the last block, in [0, 1); it rises linearly.

    Raises:
        ValueError: the model has no level at a stride, the weights do not fit, both sources of
            weights are given, they cannot be downloaded, the model has fewer stages or no place
            for ``low_pass`` or ``drop_path``, or ``in_channels`` is neither 3 nor 4.
    """
    if pretrained and weights is not None:
        raise ValueError("give either pretrained: true or weights, not both")
    timm = load_timm()
    with torch.device("meta"):
        pattern = timm.create_model(name, features_only=True)
    available = pattern.feature_info.reduction()
    doubling = all(fine * 2 == coarse for fine, coarse in itertools.pairwise(strides))
    if not strides or not doubling or not set(strides) <= set(available):
        raise ValueError(
            f"strides of {name} must be among {available}, each twice the one before, "
            f"got {list(strides)}"
        )
    indices = tuple(available.index(stride) for stride in strides)
    options: dict[str, Any] = _stochastic_depth(name, drop_path)
    swin = is_swin(pattern)
    if swin:  # images of any size, windows of the same size at each
        options |= {"strict_img_size": False, "always_partition": True}
    body = create_timm(
        name, pretrained=pretrained, features_only=True, out_indices=indices, **options
    )
    if weights is not None:
        load_backbone_weights(body, name, weights)
    if swin:
        pad_before_shift(body)
    _freeze(body, indices[-1], trainable_stages)
    body = convert_norm(body, norm)
    add_low_pass(body, name, low_pass, norm)
    set_in_channels(body, in_channels)
    return body


def _stochastic_depth(name: str, rate: float) -> dict[str, float]:
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path must be in [0, 1), got {rate}")
    if not rate:
        return {}
    options = {"drop_path_rate": rate}
    with torch.device("meta"):
        try:
            load_timm().create_model(name, **options)
        except TypeError:
            raise ValueError(f"drop_path: {name} has no stochastic depth; leave it out") from None
    return options


def body_levels(body: Any, images: Tensor) -> list[Tensor]:
    """Return the outputs of a feature extractor, each (B, C, h, w), finest first."""
    levels: list[Tensor] = body(images)
    if getattr(body, "output_fmt", "NCHW") == "NHWC":
        return [level.permute(0, 3, 1, 2) for level in levels]
    return levels


def _freeze(body: Any, last: int, trainable_stages: int | None) -> None:
    """Freeze the first stages and the layers after the coarsest level in use.

    timm lists each stage by its last module; its order of modules is the order of execution.
    """
    info: list[dict[str, Any]] = body.feature_info.info
    stages = last + 1
    trainable = stages if trainable_stages is None else trainable_stages
    if not 0 <= trainable <= stages:
        raise ValueError(f"trainable_stages must be in 0..{stages}, got {trainable}")
    if trainable == len(info):
        return
    names = [name.replace(".", "_") + "_" for name, _ in body.named_modules()]
    stops = []
    for entry in info[:stages]:
        end = str(entry["module"]).replace(".", "_") + "_"
        inside = [position for position, name in enumerate(names) if name.startswith(end)]
        if not inside:
            raise ValueError(f"timm names no module for stage {entry['module']} of this model")
        stops.append(inside[-1])
    first = -1 if trainable == stages else stops[stages - trainable - 1]
    for position, module in enumerate(body.modules()):
        if not first < position <= stops[-1]:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
