"""Box and mask heads of Mask R-CNN (arXiv 1703.06870).

Shapes: B images, R regions (RoIs) of all images in order, C foreground classes; label 0 is
the background inside this file. RoIs are rows (image, x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from models.backbones.norm import norm_layer
from models.ops.boxes.roi_align import pool_regions, project_masks
from models.ops.distributed import LossTerm, sum_by_image
from models.ops.precision import at_least_float32
from models.seg.mask_rcnn.matching import ImageBoxes
from models.seg.mask_rcnn.options import BoxHeadOptions, MaskHeadOptions
from models.seg.mask_rcnn.roi_sampling import RoISampler, with_image
from models.seg.mask_rcnn.rpn import SMOOTH_L1_BETA

_MASK_CHUNK = 128  # RoIs per pass through the mask head in prediction
# Candidates of an image that are looked at first. Up to 5000 boxes torchvision's suppression shifts
# classes apart, which rounds coordinates; with more it takes one class at a time.
_FIRST_LOOK = 5001


class Pyramid(NamedTuple):
    """Levels of a feature pyramid for pooling.

    Attributes:
        levels: (B, F, h, w) each, finest first, each at half the resolution of the one before.
        stride: stride of the first level.
    """

    levels: Sequence[Tensor]
    stride: int


class Detections(NamedTuple):
    """Boxes (K, 4), scores (K,) and 1-based labels (K,) of one image, best score first."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class RoIHeads(nn.Module):
    """Heads that classify and refine proposals and predict a mask for each."""

    def __init__(
        self, in_channels: int, num_classes: int, box: BoxHeadOptions, mask: MaskHeadOptions
    ) -> None:
        super().__init__()
        self.box, self.mask = box, mask
        self.class_weights: Tensor | None = None  # (C + 1,), the first of the background
        self.box_coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
        self.sampler = RoISampler(box, mask.max_rois_per_image)
        if box.head == "mlp":
            self.box_head = TwoMLPHead(in_channels * box.roi_size**2, box.width)
        else:
            self.box_head = FastRCNNConvFCHead(
                (in_channels, box.roi_size, box.roi_size),
                [box.conv_width] * box.num_convs,
                [box.width],
                norm_layer=norm_layer(box.norm),
            )
        self.box_predictor = FastRCNNPredictor(box.width, num_classes + 1)
        self.mask_head = MaskRCNNHeads(
            in_channels, [mask.width] * mask.num_convs, 1, norm_layer=norm_layer(mask.norm)
        )
        self.mask_predictor = MaskRCNNPredictor(mask.width, mask.width, num_classes + 1)

    def losses(
        self,
        pyramid: Pyramid,
        proposals: Sequence[Tensor],
        truths: Sequence[ImageBoxes],
        masks: Tensor,
        mask_stride: int,
        key: int,
    ) -> dict[str, LossTerm]:
        """Return ``classifier``, ``box`` and ``mask`` for each image (Mask R-CNN sec. 3).

        Args:
            pyramid: levels to pool from.
            proposals: (P, 4) for each image.
            truths: instances of each image.
            masks: (M, h, w) bool of the whole batch, at ``mask_stride`` pixels per cell.
            mask_stride: pixels per cell of ``masks``.
            key: seed of the sampling, together with each image's index.
        """
        sample = self.sampler(proposals, truths, key)
        batch = len(truths)
        logits, deltas = self._classify(pyramid, sample.regions)
        image = sample.regions[:, 0].long()
        classifier = F.cross_entropy(logits, sample.labels, reduction="none")
        if self.class_weights is not None:
            classifier = classifier * self.class_weights.to(classifier)[sample.labels]
        positive = sample.labels.nonzero().flatten()
        box = F.smooth_l1_loss(
            deltas[positive, sample.labels[positive]],
            self.box_coder.encode_single(sample.matched, sample.regions[positive, 1:]),
            beta=SMOOTH_L1_BETA,
            reduction="none",
        ).sum(dim=1)
        count = torch.bincount(image, minlength=batch)
        chosen = positive[sample.to_mask]
        return {
            "classifier": LossTerm(sum_by_image(classifier, image, batch), count),
            "box": LossTerm(sum_by_image(box, image[positive], batch), count),
            "mask": self._mask_loss(
                pyramid,
                sample.regions[chosen],
                sample.labels[chosen],
                project_masks(
                    masks,
                    sample.rows[sample.to_mask],
                    sample.regions[chosen, 1:],
                    2 * self.mask.roi_size,
                    mask_stride,
                ),
                batch,
            ),
        }

    @torch.no_grad()
    def detect(
        self,
        pyramid: Pyramid,
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        score_thresh: float,
        nms_thresh: float,
        max_dets: int,
    ) -> list[Detections]:
        """Classify proposals, refine them and keep the best, in the padded frame."""
        logits, deltas = self._classify(pyramid, with_image(proposals))
        counts = [len(boxes) for boxes in proposals]
        return [
            self._best(boxes, scores, code, size, score_thresh, nms_thresh, max_dets)
            for boxes, scores, code, size in zip(
                proposals,
                torch.split(logits.softmax(dim=1), counts),
                torch.split(deltas, counts),
                sizes,
                strict=True,
            )
        ]

    def _best(
        self,
        boxes: Tensor,
        scores: Tensor,
        code: Tensor,
        size: tuple[int, int],
        score_thresh: float,
        nms_thresh: float,
        max_dets: int,
    ) -> Detections:
        """Refine and suppress the best candidates of an image, more only if too few are left.

        A candidate is suppressed by better ones alone, so the result is that of all of them (A353).
        """
        row, column = (scores[:, 1:] > score_thresh).nonzero(as_tuple=True)
        score, order = scores[row, column + 1].sort(descending=True, stable=True)
        look = max(_FIRST_LOOK, 4 * max_dets)
        while True:
            part = order[:look]
            label = column[part] + 1
            refined = self.box_coder.decode_single(code[row[part], label], boxes[row[part]])
            refined = clip_boxes_to_image(refined.view(-1, 4), size)
            kept = remove_small_boxes(refined, min_size=1e-2)
            kept = kept[batched_nms(refined[kept], score[kept], label[kept], nms_thresh)][:max_dets]
            if len(kept) == max_dets or look >= len(order):
                return Detections(refined[kept], score[kept], label[kept])
            look *= 4

    @torch.no_grad()
    def predict_masks(self, pyramid: Pyramid, found: Sequence[Detections]) -> list[Tensor]:
        """Return soft masks (K, S, S) of each image's detections, S = 2 * roi_size."""
        rois = with_image([one.boxes for one in found])
        labels = torch.cat([one.labels for one in found])
        chunks = zip(torch.split(rois, _MASK_CHUNK), torch.split(labels, _MASK_CHUNK), strict=True)
        soft = torch.cat([self._mask_logits(pyramid, *chunk).sigmoid() for chunk in chunks])
        return list(torch.split(soft, [len(one.labels) for one in found]))

    def _classify(self, pyramid: Pyramid, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (R, C + 1) and box code (R, C + 1, 4), at least float32."""
        features = self.box_head(self._pool(pyramid, rois, self.box))
        logits, deltas = self.box_predictor(features)
        return at_least_float32(logits), at_least_float32(deltas).view(*logits.shape, 4)

    def _pool(
        self, pyramid: Pyramid, rois: Tensor, options: BoxHeadOptions | MaskHeadOptions
    ) -> Tensor:
        return pool_regions(
            pyramid.levels,
            rois,
            pyramid.stride,
            options.roi_size,
            options.sampling_ratio,
            self.box.canonical_size,
        )

    def _mask_logits(self, pyramid: Pyramid, rois: Tensor, labels: Tensor) -> Tensor:
        """Return (K, S, S) mask logits, at least float32, of one class per region.

        The last convolution is evaluated only for that class: its weights are selected by label.
        """
        features = self.mask_head(self._pool(pyramid, rois, self.mask))
        predictor = self.mask_predictor
        features = predictor.relu(predictor.conv5_mask(features))
        last = predictor.mask_fcn_logits
        weight: Tensor = last.weight[labels, :, 0, 0]
        bias: Tensor = last.bias[labels, None, None]
        return at_least_float32(torch.einsum("kc,kchw->khw", weight, features)) + bias

    def _mask_loss(
        self, pyramid: Pyramid, rois: Tensor, labels: Tensor, targets: Tensor, batch: int
    ) -> LossTerm:
        """Return the binary cross-entropy of the true class's mask over positive regions."""
        logits = self._mask_logits(pyramid, rois, labels)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        image = rois[:, 0].long()
        count = torch.bincount(image, minlength=batch)
        return LossTerm(sum_by_image(loss.mean(dim=(1, 2)), image, batch), count)
