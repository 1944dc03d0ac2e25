"""Mask R-CNN (He et al. 2017, arXiv 1703.06870) on a feature pyramid (arXiv 1612.03144).

Two stages: a proposal network (models/seg/mask_rcnn/rpn.py) and heads for class, box and mask on
RoIAlign features (models/seg/mask_rcnn/roi_heads.py). The loss of a region is L = L_cls + L_box +
L_mask (sec. 3); L_mask is the mean binary cross-entropy of the mask of the true class alone. The
model consists of torchvision's parts and equals torchvision's models in losses and detections; in
addition, losses are available in evaluation mode and for each image, sampling is keyed, crowds are
ignored and masks are run-length encoded in the window of their box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formats.weights.public import PublicWeights
from models.backbones.in_channels import channel_constants, set_in_channels
from models.backbones.norm import Norm, convert_norm
from models.backbones.resnet_fpn import ResNet50FPN
from models.ops.boxes.boxes import rescale_boxes
from models.ops.distributed import reduce_terms
from models.ops.masks.paste import paste_to_rle
from models.seg.checks import check_counts, check_deviations
from models.seg.mask_rcnn.matching import image_boxes
from models.seg.mask_rcnn.names import torchvision_weights
from models.seg.mask_rcnn.options import BoxHeadOptions, MaskHeadOptions, RPNOptions
from models.seg.mask_rcnn.roi_heads import Detections, Pyramid, RoIHeads
from models.seg.mask_rcnn.rpn import RegionProposalNetwork
from models.seg.protocol import Reduction
from structures import Instances, SegBatch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_SIZE_DIVISIBLE = 32
_RPN, _BOX, _MASK = RPNOptions(), BoxHeadOptions(), MaskHeadOptions()


class FoundMasks(NamedTuple):
    """Detections of one image and their soft masks (K, S, S) in [0, 1]."""

    found: Detections
    soft: Tensor


class MaskRCNN(nn.Module):
    """Mask R-CNN with the protocol ``TimedSegModel``.

    Args:
        num_classes: foreground classes; the background is added internally.
        backbone: network from (B, C, H, W) to an ordered dict of levels, each at half the
            resolution of the one before, with the attribute ``out_channels``. A level named
            ``pool`` is used for proposals only.
        rpn: options of the proposal network.
        box: options of the box head.
        mask: options of the mask head.
        score_thresh: score that detections must exceed.
        nms_thresh: IoU above which the weaker of two detections of a class is dropped.
        max_dets: detections kept per image.
        image_mean: channel means, subtracted from RGB in [0, 1].
        image_std: channel standard deviations, which divide the result.
        in_channels: channels of the images, set from the data: 3, or 4 for R, Gr, B, Gb, whose
            greens have mean and deviation of G. The backbone is changed if need be.

    Raises:
        ValueError: the backbone has no ``out_channels`` or takes other images, a count or a
            deviation is not positive, or a threshold is outside [0, 1].
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Module,
        *,
        rpn: RPNOptions = _RPN,
        box: BoxHeadOptions = _BOX,
        mask: MaskHeadOptions = _MASK,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        max_dets: int = 100,
        image_mean: tuple[float, float, float] = IMAGENET_MEAN,
        image_std: tuple[float, float, float] = IMAGENET_STD,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        channels = getattr(backbone, "out_channels", None)
        if not isinstance(channels, int):
            raise ValueError(f"{type(backbone).__name__} has no out_channels; use TimmFPN")
        check_counts(num_classes=num_classes, max_dets=max_dets)
        if not (0 <= score_thresh <= 1 and 0 <= nms_thresh <= 1):
            raise ValueError(
                f"score_thresh and nms_thresh lie in [0, 1], got {score_thresh} and {nms_thresh}"
            )
        check_deviations(image_std)
        self.num_classes, self.max_dets = num_classes, max_dets
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        set_in_channels(backbone, in_channels)
        self.backbone = backbone
        self.rpn = RegionProposalNetwork(channels, rpn)
        self.roi_heads = RoIHeads(channels, num_classes, box, mask)
        self.register_buffer("_mean", channel_constants(image_mean, in_channels), persistent=False)
        self.register_buffer("_std", channel_constants(image_std, in_channels), persistent=False)
        self._mean: Tensor
        self._std: Tensor

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return the terms ``objectness``, ``rpn_box``, ``classifier``, ``box``, ``mask``.

        Args:
            batch: images with targets. Crowd instances are never positive; anchors and regions
                inside them are not negative either.
            reduction: ``mean`` gives scalars with torchvision's denominators, counted over all
                processes; ``none`` gives (B,) values.
            key: seed of the sampling of anchors and regions, together with each image's index.

        Raises:
            ValueError: a box is empty or not finite, or a label is not in [0, num_classes).
        """
        truths = image_boxes(batch, self.num_classes)
        images, sizes = self._preprocess(batch)
        levels = self.backbone(images)
        features = list(levels.values())
        with torch.no_grad():  # proposals are constants of the losses
            output = self.rpn(images, features)
            proposals = self.rpn.proposals(output, sizes, for_losses=True)
        terms = self.rpn.losses(features, output.anchors, truths, key) | self.roi_heads.losses(
            make_pyramid(levels, images), proposals, truths, batch.masks, batch.mask_stride, key
        )
        return reduce_terms(terms, reduction)

    def set_class_weights(self, weights: Tensor) -> None:
        """Weight the regions of ``classifier`` by their class, background by 1 (A334).

        Args:
            weights: (C,) positive.
        """
        self.roi_heads.class_weights = F.pad(weights, (1, 0), value=1.0)

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise torchvision's Mask R-CNN and Faster R-CNN files, see ``torchvision_weights``.

        Raises:
            ValueError: the file is of another version of the network.
        """
        return torchvision_weights(given, self.num_classes, self.rpn.options.conv_depth)

    @torch.no_grad()
    def predict(self, batch: SegBatch) -> list[Instances]:
        """Return up to ``max_dets`` detections of each image in its original frame."""
        return self.instances(self.network_outputs(batch), batch)

    @torch.no_grad()
    def network_outputs(self, batch: SegBatch) -> list[FoundMasks]:
        """Return boxes and soft masks of each image, in the padded frame.

        Includes the choice of boxes by non-maximum suppression, because the mask head needs them.
        """
        images, sizes = self._preprocess(batch)
        levels = self.backbone(images)
        output = self.rpn(images, list(levels.values()))
        proposals = self.rpn.proposals(output, sizes, for_losses=False)
        pyramid = make_pyramid(levels, images)
        found = self.roi_heads.detect(
            pyramid, proposals, sizes, self.score_thresh, self.nms_thresh, self.max_dets
        )
        soft = self.roi_heads.predict_masks(pyramid, found)
        return [FoundMasks(*image) for image in zip(found, soft, strict=True)]

    @torch.no_grad()
    def instances(self, outputs: list[FoundMasks], batch: SegBatch) -> list[Instances]:
        """Transform boxes to the original frame, resize masks to them and encode.

        Args:
            outputs: output of ``network_outputs`` for the same images.
            batch: batch whose ``sizes`` and ``original_sizes`` are read.
        """
        return [
            _in_original_frame(found, soft, *sizes)
            for (found, soft), *sizes in zip(
                outputs, batch.sizes, batch.original_sizes, strict=True
            )
        ]

    def _preprocess(self, batch: SegBatch) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalise the valid area, zero the rest and pad to a multiple of 32."""
        sizes = [(height, width) for height, width in batch.sizes.tolist()]
        height, width = batch.images.shape[-2:]
        images = (batch.images - self._mean) / self._std
        for image, (valid_height, valid_width) in zip(images, sizes, strict=True):
            image[:, valid_height:] = 0
            image[:, :, valid_width:] = 0
        return F.pad(images, (0, -width % _SIZE_DIVISIBLE, 0, -height % _SIZE_DIVISIBLE)), sizes


def make_pyramid(levels: dict[str, Tensor], images: Tensor) -> Pyramid:
    """Return the levels of a backbone that regions are pooled from."""
    pooled: Sequence[Tensor] = [level for name, level in levels.items() if name != "pool"]
    return Pyramid(pooled, images.shape[-1] // pooled[0].shape[-1])


def _in_original_frame(
    found: Detections, soft: Tensor, size: Tensor, original: Tensor
) -> Instances:
    boxes = rescale_boxes(found.boxes, size, original)
    height, width = original.tolist()
    return Instances(
        boxes=boxes,
        scores=found.scores,
        labels=found.labels - 1,
        size=(height, width),
        masks=paste_to_rle(soft, boxes, (height, width)),
    )


class MaskRCNNResNet50FPN(MaskRCNN):
    """Network of torchvision's ``maskrcnn_resnet50_fpn`` with the same state-dict keys.

    Args:
        num_classes: foreground classes (torchvision counts one more).
        norm: normalisation of the ResNet.
        norm_eps: epsilon of the norm; ``init_from`` sets 0 for torchvision's COCO_V1 weights.
        trainable_stages: number of trainable stages of the ResNet out of 5, counted from the
            coarsest; 3 is usual with pretrained weights.
        rpn: options of the proposal network.
        box: options of the box head.
        mask: options of the mask head.
        score_thresh: score that detections must exceed.
        nms_thresh: IoU threshold of non-maximum suppression.
        max_dets: detections kept per image.
        pretrained: load torchvision's ImageNet weights of the ResNet, see `ResNet50FPN`.
        in_channels: see `MaskRCNN`.
    """

    starts_from: ClassVar[dict[str, Any]] = {"pretrained": False}

    def __init__(
        self,
        num_classes: int,
        *,
        norm: Norm = "frozen_bn",
        norm_eps: float = 1e-5,
        trainable_stages: int = 5,
        rpn: RPNOptions = _RPN,
        box: BoxHeadOptions = _BOX,
        mask: MaskHeadOptions = _MASK,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        max_dets: int = 100,
        pretrained: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__(
            num_classes,
            ResNet50FPN(norm, norm_eps, trainable_stages=trainable_stages, pretrained=pretrained),
            rpn=rpn,
            box=box,
            mask=mask,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            max_dets=max_dets,
            in_channels=in_channels,
        )


_RPN_V2 = RPNOptions(conv_depth=2)
_BOX_V2 = BoxHeadOptions(head="conv", norm="bn")
_MASK_V2 = MaskHeadOptions(norm="bn")


class MaskRCNNResNet50FPNV2(MaskRCNN):
    """Network of torchvision's ``maskrcnn_resnet50_fpn_v2`` (arXiv 2111.11429).

    Differences to v1: batch norm in all parts, two convolutions in the proposal head, a
    convolutional box head.

    Args:
        num_classes: foreground classes (torchvision counts one more).
        norm: normalisation of the ResNet and the pyramid; also replaces batch norms of the heads.
        trainable_stages: number of trainable stages of the ResNet out of 5, counted from the
            coarsest.
        rpn: options of the proposal network.
        box: options of the box head.
        mask: options of the mask head.
        score_thresh: score that detections must exceed.
        nms_thresh: IoU threshold of non-maximum suppression.
        max_dets: detections kept per image.
        pretrained: load torchvision's ImageNet weights of the ResNet, see `ResNet50FPN`.
        in_channels: see `MaskRCNN`.
    """

    starts_from: ClassVar[dict[str, Any]] = {"pretrained": False}

    def __init__(
        self,
        num_classes: int,
        *,
        norm: Norm = "bn",
        trainable_stages: int = 5,
        rpn: RPNOptions = _RPN_V2,
        box: BoxHeadOptions = _BOX_V2,
        mask: MaskHeadOptions = _MASK_V2,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        max_dets: int = 100,
        pretrained: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__(
            num_classes,
            ResNet50FPN(
                norm, fpn_norm=norm, trainable_stages=trainable_stages, pretrained=pretrained
            ),
            rpn=rpn,
            box=box,
            mask=mask,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            max_dets=max_dets,
            in_channels=in_channels,
        )
        convert_norm(self.roi_heads, norm)
