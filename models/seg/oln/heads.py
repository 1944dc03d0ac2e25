"""Heads of OLN: box, IoU score, mask and mask score; see `models.seg.oln.oln`.

Shapes: B images, R regions (RoIs) of all images in order, K of them with a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from models.ops.boxes.roi_align import project_masks
from models.ops.distributed import LossTerm, sum_by_image
from models.ops.precision import at_least_float32
from models.seg.mask_rcnn.matching import ImageBoxes
from models.seg.mask_rcnn.options import BoxHeadOptions, MaskHeadOptions
from models.seg.mask_rcnn.roi_heads import Detections, Pyramid, RoIHeads
from models.seg.mask_rcnn.roi_sampling import with_image
from models.seg.oln.proposals import Proposals, paired_iou

# RoIs per pass through the box and the mask head in prediction
_BOX_CHUNK, _MASK_CHUNK = 2048, 128


class _BoxPredictor(nn.Module):
    """Score logit (R, 1) and box code (R, 4) of a region's features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)
        self.box = nn.Linear(width, 4)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)
        nn.init.normal_(self.box.weight, std=0.001)
        nn.init.zeros_(self.box.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(x), self.box(x)


class MaskScore(nn.Module):
    """Predicts the IoU of a mask from the region's features and the mask, as Mask Scoring R-CNN.

    Huang et al., CVPR 2019 (arXiv 1903.00241): four convolutions, the last of stride 2, and three
    linear layers. What OLN-Mask has is not public (A463).

    Args:
        in_channels: channels of the pooled features.
        roi_size: cells per side of a region.
        width: channels of the convolutions.
        hidden: units of the linear layers.
    """

    def __init__(self, in_channels: int, roi_size: int, width: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(4):
            channels = in_channels + 1 if number == 0 else width
            layers += [nn.Conv2d(channels, width, 3, 1 if number < 3 else 2, 1), nn.ReLU()]
        cells = ((roi_size + 1) // 2) ** 2
        layers += [nn.Flatten(), nn.Linear(width * cells, hidden), nn.ReLU()]
        layers += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor, soft: Tensor) -> Tensor:
        """Return (K,) logits for features (K, F, S, S) and masks (K, 2 S, 2 S) in [0, 1]."""
        small = F.max_pool2d(soft[:, None].to(features), 2)
        return at_least_float32(self.layers(torch.cat([features, small], dim=1)))[:, 0]


class LocalisationHeads(RoIHeads):
    """Heads that refine and score regions without classifying them, with or without masks."""

    def __init__(
        self,
        in_channels: int,
        box: BoxHeadOptions,
        mask: MaskHeadOptions | None,
        score_hidden: int,
    ) -> None:
        super().__init__(in_channels, 1, box, mask or MaskHeadOptions(width=1, num_convs=1))
        self.box_predictor = _BoxPredictor(box.width)
        self.mask_score: MaskScore | None = None
        if mask is None:
            self.mask_head, self.mask_predictor = nn.Identity(), nn.Identity()
        else:
            self.mask_score = MaskScore(in_channels, mask.roi_size, mask.width, score_hidden)

    def losses(
        self,
        pyramid: Pyramid,
        proposals: Sequence[Tensor],
        truths: Sequence[ImageBoxes],
        masks: Tensor,
        mask_stride: int,
        key: int,
    ) -> dict[str, LossTerm]:
        """Return ``box``, ``box_score`` and, with masks, ``mask`` and ``mask_score``.

        Box terms are divided by all sampled regions, mask terms by the positive ones.
        """
        sample = self.sampler(proposals, truths, key)
        batch, image = len(truths), sample.regions[:, 0].long()
        logits, code = self._localise(pyramid, sample.regions)
        positive = sample.labels.nonzero().flatten()
        regions = sample.regions[positive, 1:]
        box = (code[positive] - self.box_coder.encode_single(sample.matched, regions)).abs()
        score = (logits[positive].sigmoid() - paired_iou(regions, sample.matched)).abs()
        count = torch.bincount(image, minlength=batch)
        of_positive = image[positive]
        terms = {
            "box": LossTerm(sum_by_image(box.sum(dim=1), of_positive, batch), count),
            "box_score": LossTerm(sum_by_image(score, of_positive, batch), count),
        }
        if self.mask_score is None:
            return terms
        chosen = sample.regions[positive[sample.to_mask]]
        size = 2 * self.mask.roi_size
        rows = sample.rows[sample.to_mask]
        targets = project_masks(masks, rows, chosen[:, 1:], size, mask_stride)
        return terms | self._mask_losses(pyramid, chosen, targets, batch)

    def _mask_losses(
        self, pyramid: Pyramid, rois: Tensor, targets: Tensor, batch: int
    ) -> dict[str, LossTerm]:
        logits, scores = self._masks(pyramid, rois)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        found, true = logits.detach() > 0, targets >= 0.5
        union = (found | true).sum(dim=(1, 2))
        iou = (found & true).sum(dim=(1, 2)) / union.clamp(min=1)
        image = rois[:, 0].long()
        count = torch.bincount(image, minlength=batch)
        return {
            "mask": LossTerm(sum_by_image(loss.mean(dim=(1, 2)), image, batch), count),
            "mask_score": LossTerm(
                sum_by_image((scores.sigmoid() - iou).abs(), image, batch), count
            ),
        }

    def _localise(self, pyramid: Pyramid, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return score logits (R,) and box code (R, 4), at least float32."""
        logits, code = self.box_predictor(self.box_head(self._pool(pyramid, rois, self.box)))
        return at_least_float32(logits)[:, 0], at_least_float32(code)

    def _masks(self, pyramid: Pyramid, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return mask logits (K, 2 S, 2 S) and score logits (K,) of regions."""
        pooled = self._pool(pyramid, rois, self.mask)
        predictor = self.mask_predictor
        grown = predictor.relu(predictor.conv5_mask(self.mask_head(pooled)))
        logits = at_least_float32(predictor.mask_fcn_logits(grown)[:, 1])
        assert self.mask_score is not None
        return logits, self.mask_score(pooled, logits.detach().sigmoid())

    @torch.no_grad()
    def localise(
        self,
        pyramid: Pyramid,
        proposals: Sequence[Proposals],
        sizes: Sequence[tuple[int, int]],
        score_thresh: float,
        nms_thresh: float,
        max_dets: int,
    ) -> list[Detections]:
        """Refine proposals and keep the best, in the padded frame."""
        rois = with_image([p.boxes for p in proposals])
        parts = [self._localise(pyramid, chunk) for chunk in torch.split(rois, _BOX_CHUNK)]
        logits, code = (torch.cat(column) for column in zip(*parts, strict=True))
        counts = [len(one.boxes) for one in proposals]
        found = []
        for one, logit, deltas, size in zip(
            proposals, torch.split(logits, counts), torch.split(code, counts), sizes, strict=True
        ):
            boxes = self.box_coder.decode_single(deltas, one.boxes).view(-1, 4)
            boxes = clip_boxes_to_image(boxes, size)
            scores = (one.centerness * logit.sigmoid()).sqrt()
            sides = boxes[:, 2:] - boxes[:, :2]
            usable = ((sides >= 1e-2).all(dim=1) & (scores > score_thresh)).nonzero().flatten()
            same = torch.zeros_like(usable)
            kept = usable[batched_nms(boxes[usable], scores[usable], same, nms_thresh)][:max_dets]
            found.append(Detections(boxes[kept], scores[kept], torch.ones_like(kept)))
        return found

    @torch.no_grad()
    def mask_and_score(
        self, pyramid: Pyramid, found: Sequence[Detections]
    ) -> tuple[list[Detections], list[Tensor]]:
        """Return detections with the cube root of all scores, best first, and their soft masks."""
        rois = with_image([one.boxes for one in found])
        parts = [self._masks(pyramid, chunk) for chunk in torch.split(rois, _MASK_CHUNK)]
        soft, scores = (torch.cat(column).sigmoid() for column in zip(*parts, strict=True))
        counts = [len(one.boxes) for one in found]
        rescored, masks = [], []
        for one, mask, score in zip(
            found, torch.split(soft, counts), torch.split(scores, counts), strict=True
        ):
            total = (one.scores**2 * score) ** (1 / 3)  # one.scores is a square root of two scores
            order = total.argsort(descending=True, stable=True)
            rescored.append(Detections(one.boxes[order], total[order], one.labels[order]))
            masks.append(mask[order])
        return rescored, masks
