"""Region proposals of Mask R-CNN (Faster R-CNN, arXiv 1506.01497, on FPN, arXiv 1612.03144).

Shapes: B images, A anchors per image over all levels, M instances of an image. Head, anchors,
matcher and box code are torchvision's; this implementation computes losses in training and
evaluation mode and for each image, and samples by key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from models.ops.boxes.sampling import image_generator, sample_balanced
from models.ops.distributed import LossTerm, sum_by_image
from models.ops.precision import at_least_float32
from models.seg.mask_rcnn.matching import ImageBoxes, match_regions
from models.seg.mask_rcnn.options import RPNOptions
from models.seg.mask_rcnn.rpn_cells import head_at_anchors

SMOOTH_L1_BETA = 1 / 9
_STREAM = 0


class RPNOutput(NamedTuple):
    """Outputs of the head for every anchor, float32 (float64 for a float64 network).

    Attributes:
        objectness: (B, A) logits.
        deltas: (B, A, 4) box code relative to the anchors.
        anchors: (A, 4) pixels of the padded frame, the same for every image.
        level_sizes: number of anchors of each level.
    """

    objectness: Tensor
    deltas: Tensor
    anchors: Tensor
    level_sizes: list[int]


class SampledAnchors(NamedTuple):
    """Anchors of a loss, S in total; the first P are positive.

    Attributes:
        image: (S,) int64, position of the image in the batch.
        anchor: (S,) int64, position of the anchor in its image.
        targets: (P, 4) box code of the instance of each positive anchor.
    """

    image: Tensor
    anchor: Tensor
    targets: Tensor


class RegionProposalNetwork(nn.Module):
    """Region proposal network with its losses."""

    def __init__(self, in_channels: int, options: RPNOptions) -> None:
        super().__init__()
        self.options = options
        self.anchor_generator = AnchorGenerator(
            tuple((size,) for size in options.anchor_sizes),
            (options.anchor_ratios,) * len(options.anchor_sizes),
        )
        self.head = RPNHead(in_channels, len(options.anchor_ratios), conv_depth=options.conv_depth)
        self.box_coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(
            options.fg_iou_thresh, options.bg_iou_thresh, allow_low_quality_matches=True
        )

    def forward(self, images: Tensor, features: Sequence[Tensor]) -> RPNOutput:
        """Apply the head to all levels.

        Raises:
            ValueError: the numbers of backbone levels and anchor sizes differ.
        """
        if len(features) != len(self.options.anchor_sizes):
            raise ValueError(
                f"rpn.anchor_sizes needs one size for each of the {len(features)} levels of the "
                f"backbone, got {list(self.options.anchor_sizes)}"
            )
        objectness, deltas = self.head(list(features))
        frame = ImageList(images, [(images.shape[-2], images.shape[-1])])
        # the generator only reads shape, dtype and device, so the levels need no storage
        cell = at_least_float32(images.new_zeros(()))
        grids = [cell.expand(f.shape) for f in features]
        return RPNOutput(
            objectness=torch.cat([_by_anchor(level, 1) for level in objectness], dim=1)[..., 0],
            deltas=torch.cat([_by_anchor(level, 4) for level in deltas], dim=1),
            anchors=self.anchor_generator(frame, grids)[0],
            level_sizes=[level[0].numel() for level in objectness],
        )

    @torch.no_grad()
    def proposals(
        self, output: RPNOutput, sizes: Sequence[tuple[int, int]], *, for_losses: bool
    ) -> list[Tensor]:
        """Return the best boxes of each image after suppression, (P, 4), best first.

        Args:
            output: output of ``forward``.
            sizes: valid (height, width) of each image; boxes are clipped to it.
            for_losses: use the limits for losses instead of those for predictions.
        """
        options = self.options
        before = options.pre_nms_train if for_losses else options.pre_nms_test
        after = options.post_nms_train if for_losses else options.post_nms_test
        chosen, levels, start = [], [], 0
        for number, size in enumerate(output.level_sizes):
            scores = output.objectness[:, start : start + size]
            best = scores.topk(min(before, size), dim=1).indices
            chosen.append(best + start)
            levels.append(best.new_full((best.shape[1],), number))
            start += size
        level, anchor = torch.cat(levels), torch.cat(chosen, dim=1)  # (T,), (B, T)
        boxes = self.box_coder.decode_single(
            output.deltas.gather(1, anchor[..., None].expand(-1, -1, 4)).flatten(0, 1),
            output.anchors[anchor].flatten(0, 1),
        ).view(*anchor.shape, 4)
        scores = output.objectness.gather(1, anchor).sigmoid()
        return [
            _suppress(box, score, level, size, options.nms_thresh, after)
            for box, score, size in zip(boxes, scores, sizes, strict=True)
        ]

    def losses(
        self, features: Sequence[Tensor], anchors: Tensor, truths: Sequence[ImageBoxes], key: int
    ) -> dict[str, LossTerm]:
        """Return ``objectness`` and ``rpn_box`` for each image.

        Faster R-CNN eq. 1 with lambda = 1 and both terms divided by the sampled anchors. The head
        is applied to the cells of these once more, and only there with gradients.

        Args:
            features: levels that ``forward`` was applied to.
            anchors: (A, 4), of the output of ``forward``.
            truths: instances of each image.
            key: seed of the sampling, together with each image's index.
        """
        sample = self._sample(anchors, truths, key)
        logits, deltas = head_at_anchors(self.head, features, sample.image, sample.anchor)
        positives = len(sample.targets)
        wanted = torch.zeros_like(logits)
        wanted[:positives] = 1.0
        objectness = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        box = F.smooth_l1_loss(
            deltas[:positives], sample.targets, beta=SMOOTH_L1_BETA, reduction="none"
        ).sum(dim=1)
        count = torch.bincount(sample.image, minlength=len(truths))
        return {
            "objectness": LossTerm(sum_by_image(objectness, sample.image, len(truths)), count),
            "rpn_box": LossTerm(sum_by_image(box, sample.image[:positives], len(truths)), count),
        }

    @torch.no_grad()
    def _sample(self, anchors: Tensor, truths: Sequence[ImageBoxes], key: int) -> SampledAnchors:
        positives, negatives, targets = [], [], []
        for truth in truths:
            labels, matched = match_regions(
                anchors, truth, self.matcher, self.options.fg_iou_thresh
            )
            generator = image_generator(key, truth.index, _STREAM)
            positive, negative = sample_balanced(
                labels, self.options.batch_size_per_image, self.options.positive_fraction, generator
            )
            targets.append(
                self.box_coder.encode_single(truth.boxes[matched[positive]], anchors[positive])
            )
            positives.append(positive)
            negatives.append(negative)
        parts = [*positives, *negatives]
        numbers = [*range(len(truths))] * 2
        image = [torch.full_like(part, k) for part, k in zip(parts, numbers, strict=True)]
        return SampledAnchors(torch.cat(image), torch.cat(parts), torch.cat(targets))


def _by_anchor(level: Tensor, channels: int) -> Tensor:
    """Reshape (B, R * channels, H, W) to (B, H * W * R, channels), in the order of the anchors."""
    batch, _, height, width = level.shape
    level = at_least_float32(level).view(batch, -1, channels, height, width)
    return level.permute(0, 3, 4, 1, 2).reshape(batch, -1, channels)


def _suppress(
    boxes: Tensor,
    scores: Tensor,
    level: Tensor,
    size: tuple[int, int],
    iou_thresh: float,
    limit: int,
) -> Tensor:
    boxes = clip_boxes_to_image(boxes, size)
    keep = remove_small_boxes(boxes, min_size=1e-3)
    boxes = boxes[keep]
    return boxes[batched_nms(boxes, scores[keep], level[keep], iou_thresh)[:limit]]
