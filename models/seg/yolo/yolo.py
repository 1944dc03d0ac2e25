"""One-stage instance segmentation after YOLOv8-seg, implemented from papers and published numbers.

Cross-stage-partial backbone (arXiv 1911.11929), path aggregation (1803.01534), decoupled head
without anchor boxes and objectness (YOLOX, 2107.08430), box sides as distributions (2006.04388),
masks as sums of prototypes (YOLACT, 1904.02689), task-aligned assignment (TOOD, 2108.07755).

    sides of a box   d_i = stride x sum_k k softmax(z_i)_k,  i = left, top, right, bottom
    box              (x - d_left, y - d_top, x + d_right, y + d_bottom) at the cell centre (x, y)
    score            sigmoid(class logit)
    mask             sigmoid(coefficients @ prototypes), at a quarter of the resolution

The five scales have the published numbers of parameters, except for the 16 constants 0 to 15 of the
first line, which are not parameters here. Assumptions A200 to A203.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.csp import CSPBackbone, Scale, ScaleName, named_scale
from models.backbones.in_channels import channel_constants, set_in_channels
from models.backbones.levels import check_levels, level_channels
from models.backbones.norm import Norm, convert_norm
from models.ops.boxes.boxes import rescale_boxes
from models.ops.masks.prototype_paste import MaskCrop, paste_prototypes
from models.seg.checks import check_deviations
from models.seg.protocol import Reduction
from models.seg.yolo.detect import DetectOptions, detect
from models.seg.yolo.head import STRIDES, YOLOHead
from models.seg.yolo.losses import PROTOTYPE_STRIDE, YOLOLossOptions, yolo_losses
from models.seg.yolo.names import convert_names, is_original
from models.seg.yolo.neck import PathAggregation
from models.seg.yolo.output import YOLOOutput
from structures import Instances, SegBatch

_SIZE_DIVISIBLE = STRIDES[-1]
_GREY = 114 / 255
_LOSS = YOLOLossOptions()


class YOLOSeg(nn.Module):
    """One-stage instance segmentation model with backbone, neck and head.

    ``YOLOSeg("n", 80)`` is the published network of scale n for COCO.

    Args:
        scale: ``n``, ``s``, ``m``, ``l``, ``x``, or a custom ``Scale``.
        num_classes: foreground classes.
        backbone: network from (B, C, H, W) to three levels at strides 8, 16 and 32 with their
            widths in ``feature_channels``, such as ``TimmFeatures``. None for the backbone of the
            scale; with a given backbone the scale only sets neck and head.
        norm: normalisation of neck, head and the scale's backbone; a given backbone keeps its own.
        num_bins: bins per box side; sides lie within (num_bins - 1) x stride of the cell centre.
        num_prototypes: number of prototype masks.
        loss: options of assignment and losses.
        score_thresh: score that detections must exceed.
        nms_thresh: IoU above which the weaker of two detections of a class is dropped.
        max_dets: detections kept per image.
        pre_nms: largest number of pairs of anchor and class per image before suppression, best
            first (A218).
        mask_crop: crop masks to their boxes ``after`` or ``before`` resizing them to the
            resolution of the image (A219).
        image_mean: channel means, subtracted from RGB in [0, 1].
        image_std: channel standard deviations, which divide the result.
        pad_value: value in [0, 1] outside the valid area of an image (A203).
        in_channels: channels of the images, set from the data: 3, or 4 for R, Gr, B, Gb, whose
            greens have mean and deviation of G. The backbone is changed if need be.

    Raises:
        ValueError: the scale is unknown, the backbone does not declare its three widths or takes
            other images, a count is below 1 (``num_bins`` below 2), a threshold is outside [0, 1],
            ``mask_crop`` is unknown, or a deviation is not positive.
    """

    def __init__(
        self,
        scale: ScaleName | Scale,
        num_classes: int,
        *,
        backbone: nn.Module | None = None,
        norm: Norm = "bn",
        num_bins: int = 16,
        num_prototypes: int = 32,
        loss: YOLOLossOptions = _LOSS,
        score_thresh: float = 0.001,
        nms_thresh: float = 0.7,
        max_dets: int = 300,
        pre_nms: int = 30_000,
        mask_crop: MaskCrop = "after",
        image_mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        image_std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        pad_value: float = _GREY,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        size = named_scale(scale)
        if num_classes < 1 or num_bins < 2 or num_prototypes < 1:
            raise ValueError(
                "num_classes and num_prototypes must be at least 1 and num_bins 2, "
                f"got {num_classes}, {num_prototypes} and {num_bins}"
            )
        check_deviations(image_std)
        if not 0 <= pad_value <= 1:
            raise ValueError(f"pad_value is a colour in [0, 1], got {pad_value}")
        if mask_crop not in get_args(MaskCrop):
            raise ValueError(f"mask_crop must be after or before, got {mask_crop!r}")
        self.detection = DetectOptions(score_thresh, nms_thresh, max_dets, pre_nms)
        self.max_dets, self.mask_crop = max_dets, mask_crop
        self.backbone: nn.Module = CSPBackbone(size, norm) if backbone is None else backbone
        set_in_channels(self.backbone, in_channels)
        self.in_channels = in_channels
        self.neck = PathAggregation(level_channels(self.backbone, STRIDES), size)
        self.head = YOLOHead(
            self.neck.out_channels, num_classes, size.channels(256), num_bins, num_prototypes
        )
        convert_norm(self.neck, norm)
        convert_norm(self.head, norm)
        self.num_classes, self.loss, self.pad_value = num_classes, loss, pad_value
        self._class_weights: Tensor | None = None
        self._normalises = any(image_mean) or set(image_std) != {1.0}
        self.register_buffer("_mean", channel_constants(image_mean, in_channels), persistent=False)
        self.register_buffer("_std", channel_constants(image_std, in_channels), persistent=False)
        self._mean: Tensor
        self._std: Tensor

    def forward(self, images: Tensor) -> YOLOOutput:
        """Return the raw outputs of every anchor and the prototypes.

        Args:
            images: (B, in_channels, H, W) float in [0, 1]; H and W are multiples of 32.

        Raises:
            ValueError: the shape is wrong, or the backbone's levels are not at strides 8, 16 and
                32.
        """
        _check_images(images, self.in_channels)
        if self._normalises:
            images = (images - self._mean) / self._std
        levels = self.backbone(images)
        check_levels(levels, (images.shape[-2], images.shape[-1]), STRIDES, self.backbone)
        output: YOLOOutput = self.head(self.neck(levels))
        return output

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return the terms ``box``, ``class``, ``dfl``, ``mask`` (models/seg/yolo/losses.py).

        Args:
            batch: images of any size with targets; they are padded to a multiple of 32.
            reduction: ``mean`` gives scalars, with denominators counted over all processes;
                ``none`` gives (B,) values. A batch norm in training mode makes the values of an
                image depend on the other images of the batch.
            key: unused, since nothing is sampled.

        Raises:
            ValueError: see ``yolo_losses``.
        """
        padded = pad_batch(batch, self.pad_value)
        output = self(padded.images)
        options = (self.num_classes, self.loss, reduction, self._class_weights)
        return yolo_losses(output, padded, *options)

    def set_class_weights(self, weights: Tensor) -> None:
        """Weight the positive anchors of ``class`` by their object's class (A334).

        Args:
            weights: (C,) positive.
        """
        self._class_weights = weights

    def convert_weights(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights with the names of this network; YOLOv8-seg's are renamed (A248).

        Raises:
            ValueError: the weights belong to another kind of network or another scale.
        """
        return convert_names(given, self.state_dict()) if is_original(given) else dict(given)

    @torch.no_grad()
    def predict(self, batch: SegBatch) -> list[Instances]:
        """Return up to ``max_dets`` detections of each image in its original frame."""
        return self.instances(self.network_outputs(batch), batch)

    @torch.no_grad()
    def network_outputs(self, batch: SegBatch) -> YOLOOutput:
        """Return the outputs for images of any size, padded as in ``losses``."""
        output: YOLOOutput = self(pad_batch(batch, self.pad_value).images)
        return output

    @torch.no_grad()
    def instances(self, outputs: YOLOOutput, batch: SegBatch) -> list[Instances]:
        """Choose detections and encode their masks.

        Args:
            outputs: output of ``network_outputs`` for the same images.
            batch: batch whose ``sizes`` and ``original_sizes`` are read.
        """
        found = detect(outputs, batch.sizes, self.detection)
        counts = torch.bincount(found.images, minlength=len(batch)).tolist()
        factors = outputs.coefficients[found.images, found.anchors]
        parts = zip(
            *(torch.split(v, counts) for v in (found.boxes, found.scores, found.labels, factors)),
            outputs.prototypes,
            batch.sizes,
            batch.original_sizes,
            strict=True,
        )
        return [self._in_original_frame(*image) for image in parts]

    def _in_original_frame(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        factors: Tensor,
        prototypes: Tensor,
        valid: Tensor,
        original: Tensor,
    ) -> Instances:
        boxes = rescale_boxes(boxes, valid, original)
        (valid_height, valid_width), (height, width) = valid.tolist(), original.tolist()
        masks = paste_prototypes(
            prototypes,
            factors,
            boxes,
            (valid_height, valid_width),
            (height, width),
            stride=PROTOTYPE_STRIDE,
            crop=self.mask_crop,
        )
        return Instances(boxes, scores, labels, (height, width), masks)


def pad_batch(batch: SegBatch, value: float, multiple: int = _SIZE_DIVISIBLE) -> SegBatch:
    """Pad images and masks at the bottom and right until both sides are multiples.

    Args:
        batch: images of any size.
        value: pixel value outside ``batch.sizes``, also in existing padding.
        multiple: number of pixels that divides both sides afterwards.

    Returns:
        New batch with unchanged boxes and ``sizes``.
    """
    height, width = batch.images.shape[-2:]
    images = batch.images
    if height % multiple or width % multiple:
        images = F.pad(images, (0, -width % multiple, 0, -height % multiple))
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) < batch.sizes[:, :1]  # (B, H)
    columns = torch.arange(width, device=images.device) < batch.sizes[:, 1:]  # (B, W)
    valid = rows[:, None, :, None] & columns[:, None, None, :]
    mask_height, mask_width = batch.masks.shape[-2:]
    more_rows = -(-height // batch.mask_stride) - mask_height
    more_columns = -(-width // batch.mask_stride) - mask_width
    return dataclasses.replace(
        batch,
        images=images.masked_fill(~valid, value),
        clean_images=None,
        masks=F.pad(batch.masks, (0, more_columns, 0, more_rows))
        if more_rows or more_columns
        else batch.masks,
    )


def _check_images(images: Tensor, channels: int) -> None:
    if images.dim() != 4 or images.shape[1] != channels:
        raise ValueError(f"images must be (B, {channels}, H, W), got {tuple(images.shape)}")
    height, width = images.shape[-2:]
    rest = height % _SIZE_DIVISIBLE or width % _SIZE_DIVISIBLE
    if rest or not height or not width:
        wanted = (max(-(-side // _SIZE_DIVISIBLE), 1) * _SIZE_DIVISIBLE for side in (height, width))
        raise ValueError(
            f"sides of images must be multiples of {_SIZE_DIVISIBLE}, got {height} x {width}; "
            f"pad them at the bottom and right to {' x '.join(map(str, wanted))} "
            "(losses does so itself)"
        )
