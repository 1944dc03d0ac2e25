"""Sampling of the regions for the losses of box and mask heads (arXiv 1703.06870 sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from models.ops.boxes.sampling import choose, image_generator, sample_balanced
from models.seg.mask_rcnn.matching import ImageBoxes, match_regions
from models.seg.mask_rcnn.options import BoxHeadOptions

_BOX_STREAM, _MASK_STREAM = 1, 2


class SampledRoIs(NamedTuple):
    """Regions of a loss, R in total, P of them positive.

    Attributes:
        regions: (R, 5) RoIs, or (R, 4) boxes for a single image.
        labels: (R,) class + 1, 0 for background.
        matched: (P, 4) instance box of each positive region.
        rows: (P,) row of that instance in the batch.
        to_mask: (P,) bool, True if the region enters the mask loss.
    """

    regions: Tensor
    labels: Tensor
    matched: Tensor
    rows: Tensor
    to_mask: Tensor


def with_image(boxes: Sequence[Tensor]) -> Tensor:
    """Join boxes of images into RoI rows (image, x1, y1, x2, y2)."""
    return torch.cat(
        [F.pad(part, (1, 0), value=float(number)) for number, part in enumerate(boxes)]
    )


class RoISampler:
    """Keyed sampling of regions for the heads.

    Args:
        options: thresholds and sample sizes of the box head.
        max_masks: positives per image that enter the mask loss, None for all.
    """

    def __init__(self, options: BoxHeadOptions, max_masks: int | None) -> None:
        self.options, self.max_masks = options, max_masks
        self.matcher = Matcher(options.fg_iou_thresh, options.bg_iou_thresh)

    @torch.no_grad()
    def __call__(
        self, proposals: Sequence[Tensor], truths: Sequence[ImageBoxes], key: int
    ) -> SampledRoIs:
        """Choose the regions of the loss; true boxes are added to the proposals."""
        regions, *rest = zip(
            *(
                self._sample_image(torch.cat([boxes, truth.boxes]), truth, key)
                for boxes, truth in zip(proposals, truths, strict=True)
            ),
            strict=True,
        )
        return SampledRoIs(with_image(regions), *(torch.cat(parts) for parts in rest))

    def _sample_image(self, boxes: Tensor, truth: ImageBoxes, key: int) -> SampledRoIs:
        labels, matched = match_regions(boxes, truth, self.matcher, self.options.fg_iou_thresh)
        positive, negative = sample_balanced(
            labels,
            self.options.batch_size_per_image,
            self.options.positive_fraction,
            image_generator(key, truth.index, _BOX_STREAM),
        )
        keep = torch.cat([positive, negative])
        to_mask = torch.ones_like(positive, dtype=torch.bool)
        if self.max_masks is not None:
            generator = image_generator(key, truth.index, _MASK_STREAM)
            places = torch.arange(len(to_mask), device=to_mask.device)
            to_mask.fill_(False)[choose(places, self.max_masks, generator)] = True
        own = matched[positive]
        return SampledRoIs(boxes[keep], labels[keep], truth.boxes[own], truth.rows[own], to_mask)
