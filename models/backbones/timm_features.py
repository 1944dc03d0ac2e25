"""timm models as backbones that give a list of levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from formats.weights.public import PublicWeights
from models.backbones.low_light import LowPassOptions
from models.backbones.norm import FrozenNormsStay, Norm
from models.backbones.shifted_windows import ShiftedWindowBlock
from models.backbones.timm_body import body_levels, build_timm_body
from models.backbones.weights import classifier_weights

_STRIDES = (8, 16, 32)


class TimmFeatures(FrozenNormsStay):
    """Feature extractor that returns levels of a timm model, by default those of 8, 16 and 32.

    ``forward`` takes (B, in_channels, H, W), sides multiples of the last stride, and returns a map
    for each stride, with ``feature_channels`` channels. Each level of a Swin goes through a layer
    norm of its own, ``level_norms``, as where its authors use it for dense prediction.

    Args:
        name: timm model name, for example ``resnet18``, ``convnext_atto`` or
            ``swin_tiny_patch4_window7_224``.
        norm: normalisation that replaces the model's batch norms.
        pretrained: load timm's own weights, which timm downloads unless they are in its cache.
        weights: ``efficientnet_lite0`` (weights of the extra ``pretrained``, for
            ``tf_efficientnet_lite0``; normalise with mean = std = 0.5) or a state-dict file.
        trainable_stages: number of trainable stages, counted from the coarsest; None for all. A
            stage ends where the resolution falls; the stem is part of the first.
        low_pass: low-pass layers for dark images, for a ResNet or ConvNeXt; None for none.
        in_channels: 3 for RGB, 4 for the planes R, Gr, B, Gb.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0.
        strides: strides of the levels, each twice the one before.

    Raises:
        ValueError: the model lacks one of the strides, the weights do not fit, both sources of
            weights are given, the model has fewer stages or no place for ``low_pass``
            or ``drop_path``, or ``in_channels`` is neither 3 nor 4.
    """

    feature_channels: tuple[int, ...]
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
        strides: tuple[int, ...] = _STRIDES,
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
        self.feature_channels = tuple(self.body.feature_info.channels())
        swin = any(isinstance(module, ShiftedWindowBlock) for module in self.body.modules())
        self.level_norms = nn.ModuleList(map(nn.LayerNorm, self.feature_channels if swin else ()))
        self.train()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the strides, finest first."""
        levels = body_levels(self.body, images)
        if not self.level_norms:
            return levels
        return [
            norm(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for norm, level in zip(self.level_norms, levels, strict=True)
        ]

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise weights of timm's classifier of the same name."""
        return classifier_weights(self.body, self.name, given)
