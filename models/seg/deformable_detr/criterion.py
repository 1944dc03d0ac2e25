"""Matching and losses of Deformable DETR with masks.

Every decoder layer is matched on its own, one query for each object, at the least sum of

    cost = class_cost (pos - neg) + box_cost |b - b*|_1 - giou_cost GIoU(b, b*)
    pos  = alpha (1 - p)^gamma (-log(p + 1e-8)),  neg = (1 - alpha) p^gamma (-log(1 - p + 1e-8))

with p the query's score for the object's class, alpha = 1/4 and gamma = 2; one_to_many.py has
another matching. The losses are, each summed over the layers and divided by the number of objects,
or by the mean number of pairs of a layer where that is larger (A605),

    class   sigmoid focal loss over all queries and classes            (arXiv 1708.02002)
    box     |b - b*|_1, giou  1 - GIoU(b, b*), boxes as fractions of the valid area
    mask    sigmoid focal loss, mean over the valid cells of stride 4
    dice    1 - (2 sum s t + 1) / (sum s + sum t + 1) over the same cells, s = sigmoid(logit)

where the last four are of matched queries only. The proposals of two stages have the first three,
with all objects of one class. Assumptions A561, A562, A564.

Letters: B images, L layers, Q queries, C width, K classes, M objects, P matched pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.box import generalised_iou, to_centres, to_corners
from models.losses.focal import focal_cost, sigmoid_focal_loss
from models.losses.mask import dice_loss
from models.ops.assignment.hungarian import assign
from models.ops.distributed import LossTerm, reduce_terms, sum_by_image
from models.ops.precision import at_least_float32
from models.seg.deformable_detr.mask_head import MASK_STRIDE
from models.seg.deformable_detr.output import Decoded
from models.seg.deformable_detr.two_stage import Proposals
from models.seg.protocol import Reduction
from models.seg.queries.padding import padded_size, valid_cells
from models.seg.queries.targets import ImageObjects, image_objects, warn_of_too_many
from structures import SegBatch

_NO_LOGIT = -1e4  # of cells of padding, whose losses are 0


class MatchCosts(NamedTuple):
    """Weights of the terms of the matching cost."""

    class_cost: float = 2.0
    box_cost: float = 5.0
    giou_cost: float = 2.0


class Objects(NamedTuple):
    """Objects to find, image by image.

    Attributes:
        boxes: (M, 4), (centre x, centre y, width, height) as fractions of the valid area.
        labels: (M,) int64.
        rows: (M,) int64, rows of the batch's instances, crowds left out.
        counts: objects of each image.
    """

    boxes: Tensor
    labels: Tensor
    rows: Tensor
    counts: list[int]


class Matches(NamedTuple):
    """Pairs of a prediction and an object, image by image.

    Attributes:
        rows: (P,) int64, (image x L + layer) x Q + query.
        objects: (P,) int64, positions among the objects.
        images: (P,) int64.
        counts: pairs of each image.
    """

    rows: Tensor
    objects: Tensor
    images: Tensor
    counts: list[int]


class MatchedMasks(NamedTuple):
    """Masks of the pairs of one image at stride 4, n pairs and c cells.

    Attributes:
        logits: (n, c), far below 0 in the padding.
        truth: (n, c) bool.
        valid: (c,) bool, False where a cell is padding.
    """

    logits: Tensor
    truth: Tensor
    valid: Tensor


class Matched(NamedTuple):
    """Predictions of all layers and the objects they are matched with, for further losses.

    Attributes:
        queries: (B, L, Q, C).
        logits: (B, L, Q, K).
        boxes: (B, L, Q, 4).
        objects: of the images.
        matches: pairs of all layers.
        masks: of the pairs of each image.
    """

    queries: Tensor
    logits: Tensor
    boxes: Tensor
    objects: Objects
    matches: Matches
    masks: list[MatchedMasks]


# (position of the image, queries (N, C), reference points (N, 2)) -> logits (N, h, w)
MaskOf = Callable[[int, Tensor, Tensor], Tensor]
# (logits, boxes, objects, costs) -> pairs, as ``match``
Matcher = Callable[[Tensor, Tensor, Objects, MatchCosts], Matches]
# what another model adds to the losses
MoreTerms = Callable[[Matched], dict[str, LossTerm]]


def detr_losses(
    class_logits: list[Tensor],
    decoded: Decoded,
    mask_of: MaskOf,
    batch: SegBatch,
    costs: MatchCosts,
    reduction: Reduction = "mean",
    matcher: Matcher | None = None,
    more: MoreTerms | None = None,
) -> dict[str, Tensor]:
    """Return the terms ``class``, ``box``, ``giou``, ``mask``, ``dice``.

    Args:
        class_logits: of each decoder layer, (B, Q, K).
        decoded: of the same images.
        mask_of: gives the mask logits of an image's queries, at stride 4.
        batch: images with targets; crowd instances are no targets.
        costs: weights of the matching cost.
        reduction: ``mean`` gives scalars, with the numbers over all processes as denominators;
            ``none`` gives (B,) values.
        matcher: matches the queries of the decoder in place of ``match``; the proposals of the
            encoder are always matched one to one.
        more: gives further terms.

    Raises:
        ValueError: a box is empty or not finite, a label is not in [0, K), or ``mask_stride`` does
            not divide 4.
    """
    each = image_objects(batch, class_logits[0].shape[-1])
    warn_of_too_many(batch, each, class_logits[0].shape[1])
    objects = find_objects(batch, each)
    logits, boxes = (_by_image(parts) for parts in (class_logits, decoded.boxes))
    matches = (matcher or match)(logits, boxes, objects, costs)
    totals = class_and_box_losses(logits, boxes, objects, matches)
    first = {} if decoded.proposals is None else _first_losses(decoded.proposals, objects, costs)
    if matcher is None:  # then both have the denominator of the proposals
        totals |= {name: totals[name] + value for name, value in first.items()}
        first = {}
    masks = [*matched_masks(decoded, mask_of, batch, objects, matches)]
    totals |= mask_losses(masks)
    counts = torch.tensor(objects.counts, device=batch.counts.device)
    pairs = torch.tensor(matches.counts, device=counts.device) / logits.shape[1]
    terms = {name: LossTerm(v, torch.maximum(counts, pairs)) for name, v in totals.items()}
    terms |= {f"first_{name}": LossTerm(value, counts) for name, value in first.items()}
    added: dict[str, LossTerm] = {}
    if more is not None:
        queries = _by_image(decoded.queries)
        added = more(Matched(queries, logits, boxes, objects, matches, masks))
    reduced = reduce_terms(terms | added, reduction)
    ours = {name: reduced[name] + reduced.get(f"first_{name}", 0) for name in totals}
    return ours | {name: reduced[name] for name in added}


def find_objects(batch: SegBatch, each: list[ImageObjects]) -> Objects:
    """Put the objects of the images together.

    Args:
        batch: their boxes are read.
        each: objects of each image.
    """
    counts = [len(one.rows) for one in each]
    rows, labels = (torch.cat(parts) for parts in zip(*each, strict=True))
    images = torch.arange(len(each)).repeat_interleave(torch.tensor(counts)).to(rows.device)
    sides = batch.sizes.flip(1).repeat(1, 2)[images]  # (M, 4), width and height twice
    return Objects(to_centres(at_least_float32(batch.boxes[rows]) / sides), labels, rows, counts)


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, objects: Objects, costs: MatchCosts) -> Matches:
    """Match every layer's queries with the objects of their image.

    Args:
        logits: (B, L, Q, K).
        boxes: (B, L, Q, 4).
        objects: of the images.
        costs: weights of the terms.
    """
    parts = [torch.split(part, objects.counts) for part in (objects.boxes, objects.labels)]
    each = [
        pair_costs(own, box, to, labels, costs)
        for own, box, to, labels in zip(logits, boxes, *parts, strict=True)
    ]
    return join_pairs(
        assign([layer for cost in each for layer in cost]),
        objects.counts,
        logits.shape[:3],
        logits.device,
    )


def pair_costs(
    logits: Tensor, boxes: Tensor, targets: Tensor, labels: Tensor, costs: MatchCosts
) -> Tensor:
    """Return the cost (L, Q, M) of each pair of a query and an object of one image.

    Args:
        logits: (L, Q, K).
        boxes: (L, Q, 4).
        targets: (M, 4).
        labels: (M,).
        costs: weights of the terms.
    """
    boxes = at_least_float32(boxes)
    apart = (boxes.unsqueeze(2) - targets).abs().sum(dim=-1)
    overlap = generalised_iou(to_corners(boxes).unsqueeze(2), to_corners(targets))
    weighted = costs.class_cost * focal_cost(logits)[..., labels] + costs.box_cost * apart
    return weighted - costs.giou_cost * overlap


def _first_losses(proposals: Proposals, objects: Objects, costs: MatchCosts) -> dict[str, Tensor]:
    """Return the sums (B,) of ``class``, ``box`` and ``giou`` of the encoder's proposals."""
    logits, boxes = (part.unsqueeze(1) for part in proposals)
    merged = objects._replace(labels=torch.zeros_like(objects.labels))
    return class_and_box_losses(logits, boxes, merged, match(logits, boxes, merged, costs))


def class_and_box_losses(
    logits: Tensor, boxes: Tensor, objects: Objects, matches: Matches
) -> dict[str, Tensor]:
    """Return the sums (B,) of ``class``, ``box`` and ``giou``.

    Args:
        logits: (B, L, Q, K).
        boxes: (B, L, Q, 4).
        objects: of the images.
        matches: pairs of the same layers.
    """
    batch = logits.shape[0]
    flat = at_least_float32(logits).flatten(0, 2)
    wanted = torch.zeros_like(flat)
    wanted[matches.rows, objects.labels[matches.objects]] = 1
    focal = sigmoid_focal_loss(flat, wanted).view(batch, -1).sum(dim=1)
    found = at_least_float32(boxes).flatten(0, 2)[matches.rows]
    targets = objects.boxes[matches.objects]
    apart = (found - targets).abs().sum(dim=1)
    unlike = 1 - generalised_iou(to_corners(found), to_corners(targets))
    return {
        "class": focal,
        "box": sum_by_image(apart, matches.images, batch),
        "giou": sum_by_image(unlike, matches.images, batch),
    }


def matched_masks(
    decoded: Decoded, mask_of: MaskOf, batch: SegBatch, objects: Objects, matches: Matches
) -> Iterator[MatchedMasks]:
    """Compute the masks of the pairs, image by image.

    Args:
        decoded: queries and reference points.
        mask_of: gives the mask logits of an image's queries.
        batch: its masks are the targets.
        objects: of the images.
        matches: pairs of all layers.

    Raises:
        ValueError: ``mask_stride`` does not divide 4.
    """
    queries, points = (_by_image(p).flatten(0, 2) for p in (decoded.queries, decoded.references))
    rows = torch.split(matches.rows, matches.counts)
    wanted = torch.split(objects.rows[matches.objects], matches.counts)
    size = padded_size(batch)
    inside = valid_cells(batch.sizes, size, (size[0] // MASK_STRIDE, size[1] // MASK_STRIDE))
    for image, (chosen, targets) in enumerate(zip(rows, wanted, strict=True)):
        logits = at_least_float32(mask_of(image, queries[chosen], points[chosen])).flatten(1)
        truth = mask_targets(batch, targets, size).flatten(1)
        valid = inside[image].flatten()
        yield MatchedMasks(logits.masked_fill(~valid, _NO_LOGIT), truth, valid)


def mask_losses(masks: Iterable[MatchedMasks]) -> dict[str, Tensor]:
    """Return the sums (B,) of ``mask`` and ``dice``.

    Args:
        masks: of the pairs of each image.
    """
    focal, dice = [], []
    for logits, truth, valid in masks:
        focal.append(sigmoid_focal_loss(logits, truth).sum() / valid.sum())
        dice.append(dice_loss(logits, truth).sum())
    return {"mask": torch.stack(focal), "dice": torch.stack(dice)}


def mask_targets(batch: SegBatch, rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the masks (N, H / 4, W / 4) bool of some instances: every fourth pixel from 2.

    Args:
        batch: with ``mask_stride`` 1, 2 or 4.
        rows: (N,) instances of the batch.
        size: (H, W) of the padded images.

    Raises:
        ValueError: ``mask_stride`` does not divide 4.
    """
    step, rest = divmod(MASK_STRIDE, batch.mask_stride)
    if rest:
        raise ValueError(
            f"mask_stride must divide the stride {MASK_STRIDE} of the masks, "
            f"got {batch.mask_stride}"
        )
    masks = batch.masks[:, step // 2 :: step, step // 2 :: step][rows]
    height, width = size[0] // MASK_STRIDE, size[1] // MASK_STRIDE
    return F.pad(masks, (0, width - masks.shape[2], 0, height - masks.shape[1]))


def join_pairs(
    pairs: list[tuple[Tensor, Tensor]], counts: list[int], shape: torch.Size, device: torch.device
) -> Matches:
    """Number the pairs of each image and layer, on the host, and copy them to the device.

    Args:
        pairs: queries and objects of each layer on the host, image by image.
        counts: objects of each image.
        shape: (B, L, Q).
        device: of the result.
    """
    batch, layers, queries = shape
    firsts = [sum(counts[:image]) for image in range(batch) for _ in range(layers)]
    rows = [chosen + problem * queries for problem, (chosen, _) in enumerate(pairs)]
    objects = [found + first for (_, found), first in zip(pairs, firsts, strict=True)]
    sizes = [len(found) for found in objects]
    each = [sum(sizes[layers * image : layers * (image + 1)]) for image in range(batch)]
    images = torch.arange(batch).repeat_interleave(torch.tensor(each))
    packed = torch.stack([torch.cat(rows), torch.cat(objects), images]).to(device)
    return Matches(packed[0], packed[1], packed[2], each)


def _by_image(parts: list[Tensor]) -> Tensor:
    """Return (B, L, Q, ...) for L tensors (B, Q, ...)."""
    return torch.stack(parts, dim=1)
