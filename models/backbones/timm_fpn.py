"""Convolutional timm models as the bottom-up path of a feature pyramid (arXiv 1612.03144)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from formats.weights.public import PublicWeights
from models.backbones.low_light import LowPassOptions
from models.backbones.norm import FrozenNormsStay, Norm, norm_layer
from models.backbones.timm_body import body_levels, build_timm_body
from models.backbones.weights import classifier_weights


class TimmFPN(FrozenNormsStay):
    """Feature pyramid on a timm model.

    ``forward`` takes (B, in_channels, H, W) and returns an ``OrderedDict`` of levels: ``0``,
    ``1``, ... at ``strides`` and ``pool`` at twice the last stride, each (B, fpn_width, h, w).

    Args:
        name: timm model name, for example ``resnet18`` or ``convnext_atto``.
        fpn_width: channels of every level.
        strides: strides of the levels taken from the model, each twice the one before.
        norm: normalisation that replaces the model's batch norms.
        fpn_norm: normalisation after the convolutions of the pyramid, or None.
        pretrained: load timm's own weights, which timm downloads unless they are in its cache.
        weights: ``efficientnet_lite0`` (weights of the extra ``pretrained``, for
            ``tf_efficientnet_lite0``; normalise with mean = std = 0.5) or a state-dict file.
        trainable_stages: number of trainable stages, counted from the coarsest; None for all. A
            stage ends where the resolution falls; the stem is part of the first.
        low_pass: low-pass layers for dark images, for a ResNet or ConvNeXt; None for none.
        in_channels: 3 for RGB, 4 for the planes R, Gr, B, Gb.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0.

    Raises:
        ValueError: the model has no level at a stride, the weights do not fit, both sources of
            weights are given, the model has fewer stages or no place for ``low_pass``
            or ``drop_path``, or ``in_channels`` is neither 3 nor 4.
    """

    out_channels: int
    starts_from: ClassVar[dict[str, Any]] = {"pretrained": False, "weights": None}

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
        low_pass: LowPassOptions | None = None,
        in_channels: int = 3,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.name = name
        self.body = build_timm_body(
            name,
            strides,
            norm,
            pretrained,
            weights,
            trainable_stages,
            low_pass=low_pass,
            in_channels=in_channels,
            drop_path=drop_path,
        )
        self.num_stages = max(self.body.feature_info.out_indices) + 1
        self.fpn = FeaturePyramidNetwork(
            self.body.feature_info.channels(),
            fpn_width,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=norm_layer(fpn_norm),
        )
        self.out_channels = fpn_width
        self.train()

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the levels, finest first."""
        levels: OrderedDict[str, Tensor] = self.fpn(
            OrderedDict(
                (str(k), feature) for k, feature in enumerate(body_levels(self.body, images))
            )
        )
        return levels

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise weights of timm's classifier of the same name."""
        return classifier_weights(self.body, self.name, given)
