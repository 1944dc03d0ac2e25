"""OLN, object localisation network (Kim et al., RA-L 2022, arXiv 2108.06753).

Mask R-CNN without a classifier. Whether a region is an object is said by how well it is localised,
which is learnt from positive examples, so that objects without labels are not taught to be
background:

- Proposals: one anchor per cell, features normalised to length 1, distances to the four sides of
  the box as multiples of the anchor's side (loss 1 - IoU), and the centerness of the anchor
  sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), 0 for a centre outside (L1 of the sigmoid).
- Regions: box code (L1) and the IoU of proposal and object, of positives alone (L1 of the sigmoid).
- Score: the square root of centerness and IoU score; with masks the cube root of these and a mask
  score, the predicted IoU of the mask.

Sampling, denominators and weights are those of the authors' code (mmdetection, Apache-2.0). Its
class branches have weight 0 and are left out. Terms are unweighted; recipes give ``rpn_box`` 10.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from formats.weights.public import PublicWeights
from models.ops.boxes.boxes import rescale_boxes
from models.ops.distributed import reduce_terms
from models.seg.mask_rcnn.mask_rcnn import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    FoundMasks,
    MaskRCNN,
    make_pyramid,
)
from models.seg.mask_rcnn.matching import image_boxes
from models.seg.mask_rcnn.names import torchvision_weights
from models.seg.mask_rcnn.options import BoxHeadOptions, MaskHeadOptions
from models.seg.oln.heads import LocalisationHeads
from models.seg.oln.proposals import LocalisationProposals, OLNProposalOptions
from models.seg.protocol import Reduction
from structures import Instances, SegBatch

_RPN, _BOX, _MASK = OLNProposalOptions(), BoxHeadOptions(), MaskHeadOptions()


class OLN(MaskRCNN):
    """OLN-Box or, with a mask head, OLN-Mask; it predicts a single class.

    Args:
        num_classes: 1; the data are class-agnostic.
        backbone: see `MaskRCNN`.
        rpn: options of the proposal network.
        box: options of the box head.
        mask: options of the mask head; None for OLN-Box, which predicts boxes alone.
        score_hidden: units of the mask score's linear layers.
        score_thresh: score that detections must exceed.
        nms_thresh: IoU above which the weaker of two detections is dropped.
        max_dets: detections kept per image.
        image_mean: channel means, subtracted from RGB in [0, 1].
        image_std: channel standard deviations, which divide the result.

    Raises:
        ValueError: there is more than one class; see `MaskRCNN`.
    """

    set_class_weights = None  # type: ignore[assignment]  # there is no classifier

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Module,
        *,
        rpn: OLNProposalOptions = _RPN,
        box: BoxHeadOptions = _BOX,
        mask: MaskHeadOptions | None = _MASK,
        score_hidden: int = 1024,
        score_thresh: float = 0.0,
        nms_thresh: float = 0.7,
        max_dets: int = 1500,
        image_mean: tuple[float, float, float] = IMAGENET_MEAN,
        image_std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        if num_classes != 1:
            raise ValueError(
                f"OLN finds objects of one class, the data have {num_classes}; set "
                "data.class_agnostic: true"
            )
        super().__init__(
            1,
            backbone,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            max_dets=max_dets,
            image_mean=image_mean,
            image_std=image_std,
        )
        channels: int = backbone.out_channels  # type: ignore[assignment]
        self.rpn: LocalisationProposals = LocalisationProposals(channels, rpn)  # type: ignore[assignment]
        self.roi_heads: LocalisationHeads = LocalisationHeads(channels, box, mask, score_hidden)

    @property
    def predicts_masks(self) -> bool:
        """Whether there is a mask head."""
        return self.roi_heads.mask_score is not None

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise torchvision's R-CNN files of version 1; backbone and layers of heads fit."""
        return torchvision_weights(given, 1, 1)

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return ``objectness``, ``rpn_box``, ``box``, ``box_score``, ``mask``, ``mask_score``.

        Without a mask head the last two are missing; see `MaskRCNN.losses`.
        """
        truths = image_boxes(batch, 1)
        images, sizes = self._preprocess(batch)
        levels = self.backbone(images)
        features = list(levels.values())
        with torch.no_grad():  # proposals are constants of the losses
            output = self.rpn(images, features)
            proposals = [one.boxes for one in self.rpn.proposals(output, sizes)]
        terms = self.rpn.losses(features, output.anchors, truths, sizes, key)
        terms |= self.roi_heads.losses(
            make_pyramid(levels, images), proposals, truths, batch.masks, batch.mask_stride, key
        )
        return reduce_terms(terms, reduction)

    @torch.no_grad()
    def network_outputs(self, batch: SegBatch) -> list[FoundMasks]:
        """Return boxes and soft masks of each image, in the padded frame; see `MaskRCNN`."""
        images, sizes = self._preprocess(batch)
        levels = self.backbone(images)
        pyramid = make_pyramid(levels, images)
        proposals = self.rpn.proposals(self.rpn(images, list(levels.values())), sizes)
        found = self.roi_heads.localise(
            pyramid, proposals, sizes, self.score_thresh, self.nms_thresh, self.max_dets
        )
        if not self.predicts_masks:
            return [FoundMasks(one, one.boxes.new_zeros(0)) for one in found]
        scored = self.roi_heads.mask_and_score(pyramid, found)
        return [FoundMasks(*one) for one in zip(*scored, strict=True)]

    @torch.no_grad()
    def instances(self, outputs: list[FoundMasks], batch: SegBatch) -> list[Instances]:
        """Transform boxes to the original frame, and masks if there are any; see `MaskRCNN`."""
        if self.predicts_masks:
            return super().instances(outputs, batch)
        return [
            Instances(
                boxes=rescale_boxes(found.boxes, size, original),
                scores=found.scores,
                labels=found.labels - 1,
                size=(int(original[0]), int(original[1])),
            )
            for (found, _), size, original in zip(
                outputs, batch.sizes, batch.original_sizes, strict=True
            )
        ]
