"""Convolutional timm models as backbones of one-stage networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from formats.weights.public import PublicWeights
from models.backbones.low_light import LowPassOptions
from models.backbones.norm import FrozenNormsStay, Norm
from models.backbones.timm_body import body_levels, build_timm_body
from models.backbones.weights import classifier_weights

_STRIDES = (8, 16, 32)


class TimmFeatures(FrozenNormsStay):
    """Feature extractor that returns the levels of strides 8, 16 and 32 of a timm model.

    ``forward`` takes (B, in_channels, H, W), sides multiples of 32, and returns three maps with
    ``feature_channels`` channels.

    Args:
        name: timm model name, for example ``resnet18`` or ``convnext_atto``.
        norm: normalisation that replaces the model's batch norms.
        pretrained: load timm's own weights, which timm downloads unless they are in its cache.
        weights: ``efficientnet_lite0`` (weights of the extra ``pretrained``, for
            ``tf_efficientnet_lite0``; normalise with mean = std = 0.5) or a state-dict file.
        trainable_stages: number of trainable stages, counted from the coarsest; None for all. A
            stage ends where the resolution falls; the stem is part of the first.
        low_pass: low-pass layers for dark images, for a ResNet or ConvNeXt; None for none.
        in_channels: 3 for RGB, 4 for the planes R, Gr, B, Gb.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0.

    Raises:
        ValueError: the model lacks one of the strides, the weights do not fit, both sources of
            weights are given, the model has fewer stages or no place for ``low_pass``
            or ``drop_path``, or ``in_channels`` is neither 3 nor 4.
    """

    feature_channels: tuple[int, int, int]
    starts_from: ClassVar[dict[str, Any]] = {"pretrained": False, "weights": None}

    def __init__(
        self,
        name: str,
        norm: Norm = "bn",
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
            _STRIDES,
            norm,
            pretrained,
            weights,
            trainable_stages,
            low_pass=low_pass,
            in_channels=in_channels,
            drop_path=drop_path,
        )
        self.num_stages = max(self.body.feature_info.out_indices) + 1
        c3, c4, c5 = self.body.feature_info.channels()
        self.feature_channels = (c3, c4, c5)
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of strides 8, 16 and 32."""
        return body_levels(self.body, images)

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise weights of timm's classifier of the same name."""
        return classifier_weights(self.body, self.name, given)
