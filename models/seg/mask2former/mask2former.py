"""Mask2Former (Cheng et al. 2022, arXiv 2112.01527) for instances.

A fixed number of queries becomes objects: layer by layer, each attends to the pixels of the mask
that it predicted before (models/seg/mask2former/decoder.py), on features that a pixel decoder makes
of a backbone's levels (models/seg/mask2former/pixel_decoder.py). All outputs, of the initial
queries and after each layer, are matched to the objects one to one and learn by the losses of
models/seg/queries/mask_classification.py.

The outputs equal those of the authors' implementation and its weights fit; in addition, padding is
neither attended nor sampled (A551).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from formats.weights.public import PublicWeights, names_without_file
from models.backbones.in_channels import channel_constants, set_in_channels
from models.backbones.levels import check_levels, level_channels
from models.ops.precision import at_least_float32
from models.seg.checks import check_counts, check_deviations
from models.seg.mask2former.decoder import MaskedDecoder
from models.seg.mask2former.names import transformers_weights
from models.seg.mask2former.pixel_decoder import PixelDecoder, PixelFeatures
from models.seg.protocol import Reduction
from models.seg.queries.instances import query_instances
from models.seg.queries.mask_classification import MaskLossOptions, mask_classification_losses
from models.seg.queries.output import QueryOutput
from models.seg.queries.padding import check_images, normalise, prepare
from structures import Instances, SegBatch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STRIDES = (4, 8, 16, 32)
_GROUPS = 32


class Mask2Former(nn.Module):
    """Mask2Former with the protocol ``TimedSegModel``.

    Args:
        num_classes: foreground classes; no object is added internally.
        backbone: network from (B, C, H, W) to the list of levels of strides 4, 8, 16 and 32, with
            their widths in ``feature_channels``: ``TimmFeatures`` with these ``strides``.
        num_queries: largest number of objects of an image that can be found.
        width: channels of pixel decoder and queries, a multiple of 32 and of ``num_heads``.
        num_heads: heads of all attention layers.
        encoder_layers: layers of the pixel decoder.
        encoder_ffn: width of their perceptrons.
        decoder_layers: layers of the decoder.
        decoder_ffn: width of their perceptrons.
        num_points: points at which masks are compared, for matching and for the loss.
        class_cost: factor of the class in the cost of a pair of query and object.
        mask_cost: factor of the cross-entropy of the masks in it.
        dice_cost: factor of the dice loss in it.
        no_object: weight of the queries without an object in the class loss.
        max_dets: predictions per image, pairs of a query and a class.
        image_mean: channel means, subtracted from RGB in [0, 1].
        image_std: channel standard deviations, which divide the result.
        in_channels: channels of the images, set from the data: 3, or 4 for R, Gr, B, Gb, whose
            greens have mean and deviation of G. The backbone is changed if need be.

    Raises:
        ValueError: the backbone does not declare four levels or takes other images, the width does
            not fit, or a count or a deviation is not positive.
    """

    no_weight_decay: ClassVar[tuple[str, ...]] = (  # A554
        "*query_feat.weight",
        "*query_embed.weight",
        "*level_embed*",
        "*relative_position_bias_table",
    )

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Module,
        *,
        num_queries: int = 100,
        width: int = 256,
        num_heads: int = 8,
        encoder_layers: int = 6,
        encoder_ffn: int = 1024,
        decoder_layers: int = 9,
        decoder_ffn: int = 2048,
        num_points: int = 12544,
        class_cost: float = 2.0,
        mask_cost: float = 5.0,
        dice_cost: float = 5.0,
        no_object: float = 0.1,
        max_dets: int = 100,
        image_mean: tuple[float, float, float] = IMAGENET_MEAN,
        image_std: tuple[float, float, float] = IMAGENET_STD,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        check_counts(
            num_classes=num_classes,
            num_queries=num_queries,
            num_heads=num_heads,
            decoder_layers=decoder_layers,
            max_dets=max_dets,
        )
        check_deviations(image_std)
        if width % _GROUPS or width % num_heads:
            raise ValueError(
                f"width must be a multiple of {_GROUPS} (groups of the norms) and of num_heads "
                f"{num_heads}, got {width}"
            )
        self.num_classes, self.max_dets = num_classes, max_dets
        self.options = MaskLossOptions(
            class_cost, mask_cost, dice_cost, num_points=num_points, no_object=no_object
        )
        self._class_weights: Tensor | None = None
        set_in_channels(backbone, in_channels)
        self.backbone = backbone
        self.pixel_decoder = PixelDecoder(
            level_channels(backbone, STRIDES), width, num_heads, encoder_layers, encoder_ffn
        )
        self.decoder = MaskedDecoder(
            num_classes, num_queries, width, num_heads, decoder_layers, decoder_ffn
        )
        self.register_buffer("_mean", channel_constants(image_mean, in_channels), persistent=False)
        self.register_buffer("_std", channel_constants(image_std, in_channels), persistent=False)
        self._mean: Tensor
        self._std: Tensor

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> QueryOutput:
        """Return classes (B, Q, K + 1) and masks (B, Q, H / 4, W / 4) of all outputs.

        Args:
            images: (B, C, H, W) in [0, 1], sides multiples of 32.
            sizes: (B, 2) int64, valid (height, width); None if no pixel is padding.

        Raises:
            ValueError: the images have other channels or sides, or the backbone's levels do not
                have these strides.
        """
        check_images(images, self._mean.shape[0])
        return self._decode(normalise(images, sizes, self._mean, self._std), sizes)

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return the terms ``class``, ``mask`` and ``dice``, sums over all outputs.

        Args:
            batch: images of any size with targets; crowds are none.
            reduction: ``mean`` gives scalars with denominators counted over all processes;
                ``none`` gives (B,) values.
            key: seed of the points at which masks are compared, together with each image's index.

        Raises:
            ValueError: a box is empty or not finite, or a label is not in [0, num_classes).
        """
        images, sizes = prepare(batch, self._mean, self._std)
        return mask_classification_losses(
            self._decode(images, sizes),
            batch,
            (images.shape[-2], images.shape[-1]),
            self.options,
            reduction,
            key,
            self._class_weights,
        )

    def set_class_weights(self, weights: Tensor) -> None:
        """Weight the queries of ``class`` by the class of their object, no object by 1 (A334).

        Args:
            weights: (C,) positive.
        """
        self._class_weights = weights

    @torch.no_grad()
    def predict(self, batch: SegBatch) -> list[Instances]:
        """Return up to ``max_dets`` objects of each image in its original frame."""
        return self.instances(self.network_outputs(batch), batch)

    @torch.no_grad()
    def network_outputs(self, batch: SegBatch) -> QueryOutput:
        """Return the last output alone, for images of any size."""
        images, sizes = prepare(batch, self._mean, self._std)
        return self._decode(images, sizes, last_only=True)

    @torch.no_grad()
    def instances(self, outputs: QueryOutput, batch: SegBatch) -> list[Instances]:
        """Choose the best pairs of query and class and encode their masks.

        Args:
            outputs: output of ``network_outputs`` for the same images.
            batch: batch whose sizes are read.
        """
        scores = at_least_float32(outputs.class_logits[-1]).softmax(dim=2)[..., :-1]
        masks = at_least_float32(outputs.mask_logits[-1])
        return query_instances(scores, masks, batch, max_dets=self.max_dets)

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise the weights of ``transformers``' Mask2Former, see ``transformers_weights``.

        Raises:
            ValueError: the file is of another size or architecture.
        """
        added = names_without_file(self)
        own = {name: value for name, value in self.state_dict().items() if name not in added}
        return transformers_weights(given, own)

    def _decode(
        self, images: Tensor, sizes: Tensor | None, *, last_only: bool = False
    ) -> QueryOutput:
        size = (images.shape[-2], images.shape[-1])
        pixels = self._pixel_features(images, sizes)
        output: QueryOutput = self.decoder(
            pixels, self.pixel_decoder.mask_features, sizes, size, last_only=last_only
        )
        return output

    def _pixel_features(self, images: Tensor, sizes: Tensor | None) -> PixelFeatures:
        size = (images.shape[-2], images.shape[-1])
        levels = self.backbone(images)
        check_levels(levels, size, STRIDES, self.backbone)
        pixels: PixelFeatures = self.pixel_decoder(levels, sizes, size)
        return pixels
