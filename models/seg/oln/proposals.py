"""Proposals of OLN: centerness in place of a class; see `models.seg.oln.oln`.

Shapes: B images, A anchors per image over all levels, S anchors of a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from models.ops.boxes.sampling import choose, image_generator, sample_balanced
from models.ops.distributed import LossTerm, sum_by_image
from models.ops.precision import at_least_float32
from models.seg.mask_rcnn.matching import ImageBoxes, match_regions
from models.seg.mask_rcnn.rpn_cells import surroundings

_BOX_STREAM, _CENTRE_STREAM = 0, 3
_SMALLEST = 1e-3  # pixels; the authors' code keeps proposals without an area  # A462


@dataclass(frozen=True)
class OLNProposalOptions:
    """Options of the proposal network; the defaults are the authors'.

    Attributes:
        anchor_sizes: side in pixels of the square anchors, one per level, finest first.
        width: channels of the convolution; None for those of the backbone.
        per_level: best proposals of a level, for losses and predictions; there is no suppression.
        box_iou: an anchor with at least this IoU learns its box, and so does the best anchor of
            each object if it reaches ``background_iou``.
        background_iou: below this IoU an anchor is background among the ``sampled``.
        centre_iou: an anchor with at least this IoU learns its centerness.
        centre_background_iou: below this IoU an anchor may fill the centerness examples.
        fill_negatives: fill the centerness examples up to ``sampled`` by background with target 0,
            as the authors' code does; False for positives alone, as its configuration says (A465).
        sampled: anchors of an image in each of both losses.
    """

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    width: int | None = None
    per_level: int = 2000
    box_iou: float = 0.7
    background_iou: float = 0.3
    centre_iou: float = 0.3
    centre_background_iou: float = 0.1
    fill_negatives: bool = True
    sampled: int = 256

    def __post_init__(self) -> None:
        if not self.anchor_sizes or min(self.anchor_sizes) <= 0:
            raise ValueError(f"anchor_sizes must be positive, got {self.anchor_sizes}")
        if min(self.per_level, self.sampled) < 1 or (self.width is not None and self.width < 1):
            raise ValueError("per_level, sampled and width must be at least 1")
        for low, high in (
            ("background_iou", "box_iou"),
            ("centre_background_iou", "centre_iou"),
        ):
            if not 0 <= getattr(self, low) <= getattr(self, high) <= 1:
                raise ValueError(f"OLNProposalOptions needs 0 <= {low} <= {high} <= 1")


class ProposalOutput(NamedTuple):
    """Centerness logits (B, A), distances (B, A, 4), anchors (A, 4) and anchors of each level."""

    logits: Tensor
    distances: Tensor
    anchors: Tensor
    level_sizes: list[int]


class Proposals(NamedTuple):
    """Boxes (P, 4) of one image and their centerness (P,) in [0, 1]."""

    boxes: Tensor
    centerness: Tensor


def distances_to_sides(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return (N, 4) distances of anchor centres to top, bottom, left and right of boxes.

    They are multiples of the anchor's height (top, bottom) or width, and negative beyond a side.
    """
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    side = anchors[:, 2:] - anchors[:, :2]
    near, far = (centre - boxes[:, :2]) / side, (boxes[:, 2:] - centre) / side
    return torch.stack([near[:, 1], far[:, 1], near[:, 0], far[:, 0]], dim=1)


def boxes_at_distances(anchors: Tensor, distances: Tensor) -> Tensor:
    """Return the boxes (N, 4) that `distances_to_sides` describes."""
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    side = anchors[:, 2:] - anchors[:, :2]
    top, bottom, left, right = distances.unbind(dim=1)
    near = centre - torch.stack([left, top], dim=1) * side
    return torch.cat([near, centre + torch.stack([right, bottom], dim=1) * side], dim=1)


def centerness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return (N,) centerness in [0, 1] of anchors in their boxes, 0 for centres outside.

    >>> box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    >>> centerness(torch.tensor([[1.0, 3.0, 3.0, 5.0]]), box)  # centre (2, 4): sqrt(2 / 6 * 4 / 4)
    tensor([0.5774])
    """
    sides = distances_to_sides(anchors, boxes)
    ratios = sides.view(-1, 2, 2).amin(dim=2) / sides.view(-1, 2, 2).amax(dim=2).clamp(min=1e-12)
    inside = (sides > 0).all(dim=1)
    return torch.where(inside, ratios.clamp(min=0).prod(dim=1).sqrt(), 0.0)


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return (N,) IoU of boxes pair by pair; boxes without an area have IoU 0."""
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    areas = [(one[:, 2:] - one[:, :2]).clamp(min=0).prod(dim=1) for one in (first, second)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-6)


class LocalisationProposals(nn.Module):
    """Proposal network that learns centerness instead of a class."""

    def __init__(self, in_channels: int, options: OLNProposalOptions) -> None:
        super().__init__()
        self.options = options
        width = options.width or in_channels
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.distances = nn.Conv2d(width, 4, 1)
        self.centerness = nn.Conv2d(width, 1, 1)
        for layer in (self.conv, self.distances, self.centerness):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        sizes = tuple((size,) for size in options.anchor_sizes)
        self.anchor_generator = AnchorGenerator(sizes, ((1.0,),) * len(sizes))
        self.box_matcher = Matcher(
            options.box_iou, options.background_iou, allow_low_quality_matches=True
        )
        self.centre_matcher = Matcher(options.centre_iou, options.centre_background_iou)

    def forward(self, images: Tensor, features: Sequence[Tensor]) -> ProposalOutput:
        """Apply the head to all levels.

        Raises:
            ValueError: the numbers of backbone levels and anchor sizes differ.
        """
        if len(features) != len(self.options.anchor_sizes):
            raise ValueError(
                f"rpn.anchor_sizes needs one size for each of the {len(features)} levels of the "
                f"backbone, got {list(self.options.anchor_sizes)}"
            )
        logits, distances = [], []
        for level in features:
            x = F.normalize(F.relu(self.conv(level)), dim=1)
            logits.append(at_least_float32(self.centerness(x)).flatten(1))
            distances.append(at_least_float32(self.distances(x)).flatten(2).transpose(1, 2))
        frame = ImageList(images, [(images.shape[-2], images.shape[-1])])
        cell = at_least_float32(images.new_zeros(()))
        anchors = self.anchor_generator(frame, [cell.expand(f.shape) for f in features])[0]
        sizes = [level.shape[1] for level in logits]
        return ProposalOutput(torch.cat(logits, 1), torch.cat(distances, 1), anchors, sizes)

    @torch.no_grad()
    def proposals(
        self, output: ProposalOutput, sizes: Sequence[tuple[int, int]]
    ) -> list[Proposals]:
        """Return the best boxes of each level, clipped to the valid size (h, w) of the image."""
        chosen, start = [], 0
        for size in output.level_sizes:
            logits = output.logits[:, start : start + size]
            chosen.append(logits.topk(min(self.options.per_level, size), dim=1).indices + start)
            start += size
        found = []
        for image, places in enumerate(torch.cat(chosen, dim=1)):
            boxes = boxes_at_distances(output.anchors[places], output.distances[image, places])
            boxes = clip_boxes_to_image(boxes, sizes[image])
            kept = ((boxes[:, 2:] - boxes[:, :2]) >= _SMALLEST).all(dim=1)
            scores = output.logits[image, places].sigmoid()
            found.append(Proposals(boxes[kept], scores[kept]))
        return found

    def losses(
        self,
        features: Sequence[Tensor],
        anchors: Tensor,
        truths: Sequence[ImageBoxes],
        sizes: Sequence[tuple[int, int]],
        key: int,
    ) -> dict[str, LossTerm]:
        """Return ``objectness`` and ``rpn_box`` for each image (A466).

        Both are divided by the anchors that the box loss has sampled. Anchors that reach beyond
        the image are left out of both.

        Args:
            features: levels that ``forward`` was applied to.
            anchors: (A, 4), of its output.
            truths: instances of each image.
            sizes: valid (height, width) of each image.
            key: seed of the sampling, together with each image's index.
        """
        numbers = range(len(truths))
        samples = [
            self._sample(anchors, truth, size, key)
            for truth, size in zip(truths, sizes, strict=True)
        ]
        parts = [*(s.box for s in samples), *(s.centre for s in samples)]
        image = torch.cat(
            [torch.full_like(p, k) for p, k in zip(parts, [*numbers, *numbers], strict=True)]
        )
        place = torch.cat(parts)
        logits, distances = self._at_anchors(features, image, place)
        split = sum(len(s.box) for s in samples)
        boxes = boxes_at_distances(anchors[place[:split]], distances[:split])
        box = 1 - paired_iou(boxes, torch.cat([s.boxes for s in samples]))
        target = torch.cat([s.targets for s in samples])
        centre = (logits[split:].sigmoid() - target).abs()
        count = torch.stack([s.sampled for s in samples])
        batch = len(truths)
        return {
            "objectness": LossTerm(sum_by_image(centre, image[split:], batch), count),
            "rpn_box": LossTerm(sum_by_image(box, image[:split], batch), count),
        }

    def _at_anchors(
        self, features: Sequence[Tensor], image: Tensor, anchor: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits (S,) and distances (S, 4) of single anchors, with gradients."""
        x, _, _ = surroundings(features, image, anchor, 1, 1)
        windows = x.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)[:, 0, 0]
        x = F.linear(windows, self.conv.weight.flatten(1), self.conv.bias).relu()
        x = F.normalize(x, dim=1)
        logits, distances = (
            F.linear(x, layer.weight.flatten(1), layer.bias)
            for layer in (self.centerness, self.distances)
        )
        return at_least_float32(logits)[:, 0], at_least_float32(distances)

    @torch.no_grad()
    def _sample(
        self, anchors: Tensor, truth: ImageBoxes, size: tuple[int, int], key: int
    ) -> _SampledAnchors:
        options = self.options
        height, width = size
        inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] < width) & (anchors[:, 3] < height)
        places = inside.nonzero().flatten()
        usable = anchors[places]
        labels, matched = match_regions(usable, truth, self.box_matcher, options.box_iou)
        if len(truth.boxes):  # the best anchor of an object may still be far from it  # A464
            far = paired_iou(usable, truth.boxes[matched]) < options.background_iou
            labels = labels.masked_fill(far & (labels >= 1), 0)
        positive, negative = sample_balanced(
            labels, options.sampled, 0.5, image_generator(key, truth.index, _BOX_STREAM)
        )
        labels, own = match_regions(usable, truth, self.centre_matcher, options.centre_iou)
        generator = image_generator(key, truth.index, _CENTRE_STREAM)
        if options.fill_negatives:
            centre, empty = sample_balanced(labels, options.sampled, 1.0, generator)
        else:
            centre = choose((labels >= 1).nonzero().flatten(), options.sampled, generator)
            empty = centre[:0]
        targets = centerness(usable[centre], truth.boxes[own[centre]])
        return _SampledAnchors(
            box=places[positive],
            boxes=truth.boxes[matched[positive]],
            centre=places[torch.cat([centre, empty])],
            targets=F.pad(targets, (0, len(empty))),
            sampled=torch.tensor(len(positive) + len(negative), device=anchors.device),
        )


class _SampledAnchors(NamedTuple):
    """Anchors (P,) with their boxes (P, 4), anchors (Q,) with centerness, and the denominator."""

    box: Tensor
    boxes: Tensor
    centre: Tensor
    targets: Tensor
    sampled: Tensor
