"""ResNet-50 (arXiv 1512.03385) with a feature pyramid, under torchvision's module names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from formats.weights.public import PublicWeights
from models.backbones.download import download_state_dict
from models.backbones.in_channels import set_in_channels
from models.backbones.low_light import LowPassOptions, add_low_pass
from models.backbones.norm import FrozenNormsStay, Norm, convert_norm, norm_layer

# Two names that the classifiers of torchvision and timm share, and no ResNet with another stem has.
_CLASSIFIER = {"conv1.weight", "layer1.0.conv1.weight"}
_STAGES = ("layer4", "layer3", "layer2", "layer1", "conv1")


class ResNet50FPN(FrozenNormsStay, BackboneWithFPN):  # type: ignore[misc]  # torchvision is not typed
    """ResNet-50 + FPN whose ``state_dict`` has the keys of torchvision's detection models.

    ``forward`` takes (B, in_channels, H, W) and returns an ``OrderedDict`` of levels ``0`` to ``3``
    (strides 4 to 32) and ``pool`` (stride 64), each (B, fpn_width, h, w).

    Args:
        norm: normalisation of the ResNet.
        norm_eps: epsilon of the norm; torchvision's COCO_V1 weights of v1 were trained with 0.
        fpn_norm: normalisation after the convolutions of the pyramid, or None.
        fpn_width: channels of every level.
        trainable_stages: number of trainable stages out of 5, counted from the coarsest; 5 also
            trains the first norm, as in torchvision. Norms of the others keep their statistics.
        pretrained: load torchvision's ImageNet weights (IMAGENET1K_V1), which are downloaded unless
            they are in the cache of ``torch.hub``.
        low_pass: low-pass layers for dark images, None for none.
        in_channels: 3 for RGB, 4 for the planes R, Gr, B, Gb.

    Raises:
        ValueError: ``trainable_stages`` is not in 0..5, ``in_channels`` is another number, the
            weights cannot be downloaded, or no stage is trained that could get a branch.
    """

    out_channels: int
    num_stages = len(_STAGES)
    starts_from: ClassVar[dict[str, Any]] = {"pretrained": False}

    def __init__(
        self,
        norm: Norm = "frozen_bn",
        norm_eps: float = 1e-5,
        fpn_norm: Norm | None = None,
        fpn_width: int = 256,
        trainable_stages: int = 5,
        pretrained: bool = False,
        low_pass: LowPassOptions | None = None,
        in_channels: int = 3,
    ) -> None:
        if not 0 <= trainable_stages <= len(_STAGES):
            raise ValueError(f"trainable_stages must be in 0..5, got {trainable_stages}")
        body = resnet50(weights=None)
        if pretrained:
            body.load_state_dict(download_state_dict(ResNet50_Weights.IMAGENET1K_V1.url))
        for module in body.modules():
            if hasattr(module, "running_mean"):
                module.eps = norm_eps
        convert_norm(body, norm)
        trained = (*_STAGES[:trainable_stages], *(("bn1",) if trainable_stages == 5 else ()))
        for name, parameter in body.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        super().__init__(
            body,
            return_layers={f"layer{k + 1}": str(k) for k in range(4)},
            in_channels_list=[256 * 2**k for k in range(4)],
            out_channels=fpn_width,
            norm_layer=norm_layer(fpn_norm),
        )
        add_low_pass(self.body, "ResNet-50", low_pass, norm)
        set_in_channels(self, in_channels)
        self.train()

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise ImageNet classifiers of torchvision and timm, whose names are the same."""
        if not given.keys() >= _CLASSIFIER:
            return None
        tensors = {k if k.startswith("fc.") else f"body.{k}": v for k, v in given.items()}
        return PublicWeights("ResNet classifier of torchvision or timm", tensors)
