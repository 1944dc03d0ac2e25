"""Losses of models that predict a class and a mask with every query: Mask2Former and EoMT.

Cheng et al. 2022, arXiv 2112.01527, sec. 3.2 and 3.3, and MaskFormer, arXiv 2107.06278. Each
supervised output is matched with the objects by itself, at the smallest total of

    C(q, o) = c_class (-p_q(class of o)) + c_mask BCE(q, o) + c_dice dice(q, o)

with masks compared at uniform points that all pairs share. Then, each summed over the outputs,

    class   cross-entropy of all queries, / sum of weights (object 1, no object 0.1)
    mask    BCE of the matched masks at uncertain points, / number of objects
    dice    dice loss at the same points, / number of objects

Denominators are counted over the batch and over all processes. Assumptions A541 to A543.

Letters: B images, L outputs, Q queries, K classes, M objects of an image, P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.mask import dice_loss, mask_bce, pairwise_mask_losses
from models.ops.assignment.hungarian import assign
from models.ops.distributed import LossTerm, reduce_terms, sum_by_image
from models.ops.masks.points import (
    keyed_points,
    moved_points,
    sample_maps,
    sample_masks,
    sample_shared,
    uncertain_points,
)
from models.ops.precision import at_least_float32
from models.seg.protocol import Reduction
from models.seg.queries.output import QueryOutput
from models.seg.queries.padding import valid_cells
from models.seg.queries.targets import (
    ImageObjects,
    Matched,
    image_objects,
    match_pairs,
    warn_of_too_many,
)
from structures import SegBatch
from structures.keyed_words import mix

# streams of random numbers of an image; outputs have those from _OUTPUTS on
_MATCHING, _CANDIDATES, _UNIFORM, _OUTPUTS = range(4)


@dataclass(frozen=True)
class MaskLossOptions:
    """Options of matching and losses; the defaults are those of Mask2Former.

    Attributes:
        class_cost: factor of the class probability in the cost of a pair.
        mask_cost: factor of the cross-entropy.
        dice_cost: factor of the dice loss.
        num_points: points at which masks are compared.
        oversample: candidates per point.
        importance: share of the points that are the most uncertain candidates.
        no_object: weight of queries without an object in the class loss, in (0, 1].

    Raises:
        ValueError: a number is out of its range.
    """

    class_cost: float = 2.0
    mask_cost: float = 5.0
    dice_cost: float = 5.0
    num_points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    no_object: float = 0.1

    def __post_init__(self) -> None:
        if self.num_points < 1 or self.oversample < 1 or not 0 <= self.importance <= 1:
            raise ValueError(
                "num_points and oversample must be at least 1 and importance in [0, 1], got "
                f"{self.num_points}, {self.oversample} and {self.importance}"
            )
        if min(self.class_cost, self.mask_cost, self.dice_cost) < 0 or not 0 < self.no_object <= 1:
            raise ValueError(
                "costs must not be negative and no_object must be in (0, 1], got "
                f"{self.class_cost}, {self.mask_cost}, {self.dice_cost} and {self.no_object}"
            )


class LossPoints(NamedTuple):
    """Tables of random points of each image, and what turns them into places on its maps.

    Attributes:
        words: (B,) int64, hashes of key and image.
        matching: (B, P, 2) in [0, 1).
        candidates: (B, P oversample, 2).
        uniform: (B, P (1 - importance), 2).
        chosen: number of candidates that are chosen.
        share: (B, 2), width and height of the image as parts of the padded image.
        to_masks: (2,), factors from places in the padded image to places in the masks.
    """

    words: Tensor
    matching: Tensor
    candidates: Tensor
    uniform: Tensor
    chosen: int
    share: Tensor
    to_masks: Tensor


_DEFAULT = MaskLossOptions()


def mask_classification_losses(
    output: QueryOutput,
    batch: SegBatch,
    size: tuple[int, int],
    options: MaskLossOptions = _DEFAULT,
    reduction: Reduction = "mean",
    key: int = 0,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms ``class``, ``mask`` and ``dice``, sums over the outputs without weights.

    Args:
        output: of the network, with a mask of every query in every output.
        batch: images with targets; images or batches without objects are allowed and still give
            every output a gradient. Crowds are not targets.
        size: (height, width) of the padded images that the masks of ``output`` cover.
        options: of matching and losses.
        reduction: ``mean`` gives scalars, with denominators counted over all processes; ``none``
            gives (B,) values, each equal to the scalar of a batch of that image alone.
        key: seed of the points, together with image, output and object.
        class_weights: (K,), factor of ``class`` for queries with an object of each class (A334).

    Returns:
        Losses in at least float32, also for half-precision outputs and under autocast.

    Raises:
        ValueError: see ``image_objects``.
    """
    num_queries, num_classes = output.class_logits[0].shape[1], output.class_logits[0].shape[2] - 1
    objects = image_objects(batch, num_classes)
    warn_of_too_many(batch, objects, num_queries)
    device = output.class_logits[0].device
    with torch.autocast(device.type, enabled=False):
        valid = valid_cells(batch.sizes, size, _map_size(output))
        points = random_points(batch, size, options, key)
        pairs = assign(pair_costs(output, batch, objects, valid, points, options))
        terms: dict[str, list[Tensor]] = {"class": [], "mask": [], "dice": []}
        for number, (classes, masks) in enumerate(
            zip(output.class_logits, output.mask_logits, strict=True)
        ):
            own = pairs[number * len(batch) : (number + 1) * len(batch)]
            matched = match_pairs(objects, own)
            terms["class"].append(_class_loss(classes, matched, options, class_weights))
            maps = masks[matched.images, matched.queries]
            bce, dice = matched_mask_losses(maps, batch, matched, valid, points, number)
            terms["mask"].append(bce)
            terms["dice"].append(dice)
        counts = torch.tensor([float(len(one.rows)) for one in objects]).to(device)
        # Each count is a sum of weights, in units of the smaller one: at least 1.
        objects_matched = counts.clamp(max=num_queries)
        weights = objects_matched / options.no_object + (num_queries - objects_matched)
        denominators = {"class": weights, "mask": counts, "dice": counts}
        return reduce_terms(
            {
                name: LossTerm(torch.stack(parts).sum(dim=0), denominators[name])
                for name, parts in terms.items()
            },
            reduction,
        )


def _map_size(output: QueryOutput) -> tuple[int, int]:
    shape = output.mask_logits[0].shape
    return int(shape[2]), int(shape[3])


def random_points(
    batch: SegBatch, size: tuple[int, int], options: MaskLossOptions, key: int
) -> LossPoints:
    """Return the points of a step, functions of key and image alone.

    Args:
        batch: images with masks.
        size: (height, width) of the padded images.
        options: number and kinds of the points.
        key: seed.
    """
    device, total = batch.index.device, options.num_points
    word = (key + 2**63) % 2**64 - 2**63
    words = mix(mix(torch.full((), word, device=device)) ^ batch.index)
    chosen = int(options.importance * total)
    many = int(total * options.oversample)
    sides = torch.tensor(size[::-1], device=device)
    covered = [side * batch.mask_stride for side in reversed(batch.masks.shape[-2:])]
    return LossPoints(
        words,
        matching=keyed_points(mix(words ^ _MATCHING), total),
        candidates=keyed_points(mix(words ^ _CANDIDATES), many),
        uniform=keyed_points(mix(words ^ _UNIFORM), total - chosen),
        chosen=chosen,
        share=batch.sizes.flip(1) / sides,
        to_masks=sides / torch.tensor(covered, device=device),
    )


@torch.no_grad()
def pair_costs(
    output: QueryOutput,
    batch: SegBatch,
    objects: list[ImageObjects],
    valid: Tensor,
    points: LossPoints,
    options: MaskLossOptions,
    first: int = 0,
) -> list[Tensor]:
    """Return the costs (Q, M) of each output and image, images of the first output first.

    Args:
        output: of the network, or of some of its queries.
        batch: images with masks.
        objects: of each image.
        valid: (B, h, w), cells of the masks that are image.
        points: of `random_points`.
        options: factors of the costs.
        first: number of the first output; outputs of other numbers have other points.
    """
    outputs = list(zip(output.class_logits, output.mask_logits, strict=True))
    numbers = range(first + _OUTPUTS, first + _OUTPUTS + len(outputs))
    moves = torch.stack([mix(points.words ^ n) for n in numbers], dim=1)
    costs = [[classes.new_zeros(classes.shape[1], 0)] * len(batch) for classes, _ in outputs]
    for image, (rows, labels) in enumerate(objects):
        if not len(rows):
            continue
        share = points.share[image]
        places = moved_points(points.matching[image], moves[image], share)  # (L, P, 2)
        truth = sample_masks(batch.masks, rows, places.flatten(0, 1) * points.to_masks)
        truths = truth.view(len(rows), len(outputs), -1)  # (M, L, P)
        for number, (classes, masks) in enumerate(outputs):
            logits = sample_shared(at_least_float32(masks[image]), places[number], valid[image])
            bce, dice = pairwise_mask_losses(logits, truths[:, number].T.to(logits.dtype))
            cost = options.mask_cost * bce + options.dice_cost * dice
            probs = at_least_float32(classes[image]).softmax(dim=1)
            costs[number][image] = cost - options.class_cost * probs[:, labels]
    return [cost for part in costs for cost in part]


def _class_loss(
    logits: Tensor, matched: Matched, options: MaskLossOptions, class_weights: Tensor | None
) -> Tensor:
    """Return (B,): cross-entropy summed over the queries, in units of the weight of no object."""
    logits = at_least_float32(logits)
    batch, queries, width = logits.shape
    place = (matched.images, matched.queries)
    targets = torch.full((batch, queries), width - 1, device=logits.device)
    targets[place] = matched.labels
    factors = logits.new_ones(batch, queries)
    own = logits.new_ones(()) if class_weights is None else class_weights.to(logits)[matched.labels]
    factors[place] = own / options.no_object
    loss = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (loss * factors).sum(dim=1)


def matched_mask_losses(
    maps: Tensor, batch: SegBatch, matched: Matched, valid: Tensor, points: LossPoints, number: int
) -> tuple[Tensor, Tensor]:
    """Return (B,) and (B,): cross-entropy and dice loss summed over the matched masks.

    Args:
        maps: (N, h, w) logits of the matched queries.
        batch: images with masks.
        matched: N pairs.
        valid: (B, h, w), cells of the masks that are image.
        points: of `random_points`.
        number: of the output; outputs of other numbers have other points.
    """
    images = matched.images
    maps = at_least_float32(maps) * valid[images]
    moves = mix(mix(points.words ^ (_OUTPUTS + number))[images] ^ mix(matched.numbers))
    share = points.share[images]
    candidates = moved_points(points.candidates[images], moves, share)
    others = moved_points(points.uniform[images], moves, share)
    places = uncertain_points(maps, candidates, others, points.chosen)
    logits = sample_maps(maps, places)
    truth = sample_masks(batch.masks, matched.rows, places * points.to_masks)
    return (
        sum_by_image(mask_bce(logits, truth), images, len(batch)),
        sum_by_image(dice_loss(logits, truth), images, len(batch)),
    )
