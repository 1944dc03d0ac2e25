"""Losses of prompts and examples, with the terms of Mask2Former.

Prompts are matched with the objects of their category, one to one and output by output, at the
costs of Mask2Former. Matched prompts have the class object, and so have all prompts of a category
that is in the image without a mask to learn; the others have the class no object. Examples are not
matched: each learns its object. Then, each summed over the outputs,

    prompt_class    cross-entropy of all prompts, / sum of weights (object 1, no object 0.1)
    prompt_mask     BCE of the matched masks at uncertain points, / number of matched objects
    prompt_dice     dice loss at the same points, / number of matched objects
    example_*       the same of the examples, / number of examples

Numbers are counted over the batch and over all processes (A625). Masks are computed where they are
needed: without a gradient for the prompts of categories that have objects, to match them, and with
one for matched prompts.

Letters: B images, P prompts, E examples, D channels, h x w cells, N pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.ops.assignment.by_class import assign_by_class
from models.ops.distributed import LossTerm, sum_by_image
from models.ops.precision import at_least_float32
from models.seg.mask2former.decoder import mask_maps
from models.seg.queries.mask_classification import (
    LossPoints,
    MaskLossOptions,
    matched_mask_losses,
    pair_costs,
)
from models.seg.queries.output import QueryOutput
from models.seg.queries.targets import Matched, match_pairs
from models.seg.segprompt.decoder import Embedding
from models.seg.segprompt.drawing import Drawn
from structures import SegBatch

_OBJECT, _NO_OBJECT = 0, 1


class MaskContext(NamedTuple):
    """What masks are made of and compared with.

    Attributes:
        batch: images with masks.
        fine: (B, D, h, w), output of the pixel decoder.
        valid: (B, h, w) bool, cells that are image.
        points: at which masks are compared.
        options: factors of the costs, and weight of no object.
    """

    batch: SegBatch
    fine: Tensor
    valid: Tensor
    points: LossPoints
    options: MaskLossOptions


class _Targets(NamedTuple):
    """What some queries learn in one output."""

    objects: Tensor  # (B, n) bool, the class is object
    maps: Tensor  # (N, h, w) mask logits of the matched queries
    matched: Matched  # N pairs


def prompt_terms(
    classes: list[Tensor], masks: list[Embedding], drawn: Drawn, context: MaskContext
) -> dict[str, LossTerm]:
    """Return the terms ``prompt_class``, ``prompt_mask`` and ``prompt_dice``.

    Args:
        classes: (B, P, 2) of each output.
        masks: embeddings of each output.
        drawn: categories and objects of the prompts.
        context: of the masks.
    """
    pairs = _assigned(classes, masks, drawn, context)
    chosen = [pad_sequence([prompts for prompts, _ in own], batch_first=True) for own in pairs]
    maps = mask_maps(_taken(masks, chosen), context.fine)
    targets = []
    for own, every in zip(pairs, maps, strict=True):
        matched = match_pairs(drawn.objects, own)
        slots = torch.cat([torch.arange(len(prompts)) for prompts, _ in own]).to(every.device)
        objects = drawn.present.clone()
        objects[matched.images, matched.queries] = True
        targets.append(_Targets(objects, every[matched.images, slots], matched))
    counted = torch.ones_like(drawn.present)
    return _terms("prompt", classes, targets, counted, context, first=len(classes))


def example_terms(
    classes: list[Tensor], masks: list[Embedding], drawn: Drawn, context: MaskContext
) -> dict[str, LossTerm]:
    """Return the terms ``example_class``, ``example_mask`` and ``example_dice``.

    Args:
        classes: (B, E, 2) of each output.
        masks: embeddings of each output.
        drawn: objects of the examples.
        context: of the masks.
    """
    shown = drawn.examples
    wide = [(at_least_float32(embedding), at_least_float32(bias)) for embedding, bias in masks]
    targets = [
        _Targets(drawn.shown, every[shown.images, shown.queries], shown)
        for every in mask_maps(wide, context.fine)
    ]
    return _terms("example", classes, targets, drawn.shown, context, first=2 * len(classes))


@torch.no_grad()
def _assigned(
    classes: list[Tensor], masks: list[Embedding], drawn: Drawn, context: MaskContext
) -> list[list[tuple[Tensor, Tensor]]]:
    """Return prompts and numbers of objects, on the host, of each output and image."""
    own = [  # prompts whose category has objects
        torch.isin(categories, labels).nonzero()[:, 0]
        for categories, labels in zip(drawn.categories, drawn.labels, strict=True)
    ]
    outputs, images = len(classes), len(own)
    chosen = [pad_sequence(own, batch_first=True)] * outputs
    some = QueryOutput(
        [_rows(logits, rows) for logits, rows in zip(classes, chosen, strict=True)],
        mask_maps(_taken(masks, chosen), context.fine),
    )
    objects = [one._replace(labels=torch.full_like(one.labels, _OBJECT)) for one in drawn.objects]
    given = (context.batch, objects, context.valid, context.points, context.options)
    costs = pair_costs(some, *given, first=outputs)
    of_prompts = [c[prompts] for c, prompts in zip(drawn.categories, own, strict=True)]
    found = assign_by_class(
        [cost[: len(own[n % images])] for n, cost in enumerate(costs)],
        of_prompts * outputs,
        drawn.labels * outputs,
    )
    pairs = [(own[n % images][places], numbers) for n, (places, numbers) in enumerate(found)]
    return [pairs[n * images : (n + 1) * images] for n in range(outputs)]


def _terms(
    name: str,
    classes: list[Tensor],
    targets: list[_Targets],
    counted: Tensor,
    context: MaskContext,
    first: int,
) -> dict[str, LossTerm]:
    """Return the three terms of some queries.

    Args:
        name: beginning of their names.
        classes: (B, n, 2) of each output.
        targets: of each output.
        counted: (B, n) bool, queries that have a class loss.
        context: of the masks.
        first: number of the first output; outputs of other numbers have other points.
    """
    total: dict[str, list[Tensor]] = {"class": [], "mask": [], "dice": []}
    for number, (logits, (objects, maps, matched)) in enumerate(zip(classes, targets, strict=True)):
        factors = torch.where(objects, 1 / context.options.no_object, 1.0) * counted
        labels = torch.where(objects, _OBJECT, _NO_OBJECT)
        loss = F.cross_entropy(at_least_float32(logits).transpose(1, 2), labels, reduction="none")
        total["class"].append((loss * factors).sum(dim=1))
        given = (context.batch, matched, context.valid, context.points)
        bce, dice = matched_mask_losses(maps, *given, first + number)
        total["mask"].append(bce)
        total["dice"].append(dice)
    weights = factors.sum(dim=1)  # equal in all outputs, which have as many pairs
    counts = sum_by_image(torch.ones_like(matched.images), matched.images, len(weights))
    denominators = {"class": weights, "mask": counts, "dice": counts}
    return {
        f"{name}_{term}": LossTerm(torch.stack(parts).sum(dim=0), denominators[term])
        for term, parts in total.items()
    }


def _taken(masks: list[Embedding], chosen: list[Tensor]) -> list[Embedding]:
    """Return the embeddings of chosen prompts, (B, n) of each output, in single precision."""
    return [
        (_rows(at_least_float32(embedding), rows), _rows(at_least_float32(bias), rows))
        for (embedding, bias), rows in zip(masks, chosen, strict=True)
    ]


def _rows(values: Tensor, chosen: Tensor) -> Tensor:
    """Return (B, n, C), the chosen rows (B, n) of values (B, P, C)."""
    index = chosen.to(values.device)[..., None].expand(-1, -1, values.shape[2])
    return values.gather(1, index)
