"""Any convolutional timm model as the bottom-up path of a feature pyramid (arXiv 1612.03144)."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from models.backbones.lazy_timm import load_timm
from models.backbones.norm import Norm, convert_norm, norm_layer
from models.backbones.weights import load_backbone_weights


class TimmFPN(nn.Module):
    """Feature pyramid on a timm model.

    ``forward`` takes (B, 3, H, W) and returns an ``OrderedDict`` of levels: ``0``, ``1``, ... at
    ``strides`` and ``pool`` at twice the last stride, each (B, fpn_width, h, w).

    Args:
        name: timm model name, for example ``resnet18`` or ``convnext_atto``.
        fpn_width: channels of every level.
        strides: strides of the levels taken from the model, each twice the one before.
        norm: batch norms of the model become this.
        fpn_norm: norm after the convolutions of the pyramid, or None.
        pretrained: load timm's own weights, which timm downloads unless they are in its cache.
        weights: ``efficientnet_lite0`` (weights of the extra ``pretrained``, for
            ``tf_efficientnet_lite0``; normalise with mean = std = 0.5) or a state-dict file.
        trainable_stages: how many stages of the model train, counted from the coarsest; None for
            all. A stage ends where the resolution falls; the stem is part of the first.

    Raises:
        ValueError: the model has no level at a stride, the weights do not fit, both sources of
            weights are given, or there are not so many stages.
    """

    out_channels: int

    def __init__(
        self,
        name: str,
        fpn_width: int = 256,
        strides: tuple[int, ...] = (4, 8, 16, 32),
        norm: Norm = "bn",
        fpn_norm: Norm | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        trainable_stages: int | None = None,
    ) -> None:
        super().__init__()
        if pretrained and weights is not None:
            raise ValueError("give either pretrained: true or weights, not both")
        timm = load_timm()
        with torch.device("meta"):
            available = timm.create_model(name, features_only=True).feature_info.reduction()
        doubling = all(fine * 2 == coarse for fine, coarse in itertools.pairwise(strides))
        if not strides or not doubling or not set(strides) <= set(available):
            raise ValueError(
                f"strides of {name} must be among {available}, each twice the one before, "
                f"got {list(strides)}"
            )
        indices = tuple(available.index(stride) for stride in strides)
        body = timm.create_model(
            name, features_only=True, out_indices=indices, pretrained=pretrained
        )
        if weights is not None:
            load_backbone_weights(body, name, weights)
        _freeze(body, indices[-1], trainable_stages)
        self.body = convert_norm(body, norm)
        self.fpn = FeaturePyramidNetwork(
            body.feature_info.channels(),
            fpn_width,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=norm_layer(fpn_norm),
        )
        self.out_channels = fpn_width
        self._channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the levels, finest first."""
        features = self.body(images)
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        levels: OrderedDict[str, Tensor] = self.fpn(
            OrderedDict((str(k), feature) for k, feature in enumerate(features))
        )
        return levels


def _freeze(body: Any, last: int, trainable_stages: int | None) -> None:
    """Stop gradients of the first stages, and of layers behind the coarsest level in use.

    timm lists stages by the module that ends each; its order of modules is the order of execution.
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
