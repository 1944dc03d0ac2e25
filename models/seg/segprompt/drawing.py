"""What the prompts and the examples of a training step are about, drawn image by image.

Categories of the prompts of an image, in this order, until there are enough: those that are in it,
those that annotators have looked for in vain, and any others. All draws are functions of the key of
the step and the index of the image (A627). They are made on the host, from one transfer.

Letters: B images, K categories, G groups of prompts, R prompts of a group, E examples, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.seg.mask_rcnn.matching import check_targets
from models.seg.queries.targets import ImageObjects, Matched
from structures import SegBatch
from structures.keyed_words import STEP, mix, uniform

_CATEGORIES, _OBJECTS, _EXAMPLES, _QUERIES = range(101, 105)  # streams of random numbers
_PRESENT, _ABSENT, _OTHER = 0.0, 1.0, 2.0  # added to numbers in (0, 1), the smallest are drawn


@dataclass(frozen=True)
class PromptOptions:
    """Numbers of prompts and examples.

    Attributes:
        categories: G, groups of prompts of an image, of a category each where there are as many.
        repeat: R, prompts of a group.
        examples: E, objects of an image that are shown to the decoder.
        min_area: objects must have more pixels than this to be learnt by prompts and examples.

    Raises:
        ValueError: a number is negative, or ``repeat`` is 0.
    """

    categories: int = 30
    repeat: int = 10
    examples: int = 5
    min_area: float = 100.0

    def __post_init__(self) -> None:
        if min(self.categories, self.examples, self.min_area) < 0 or self.repeat < 1:
            raise ValueError(
                "prompt_categories, examples and min_area must not be negative and repeat must be "
                f"at least 1, got {self.categories}, {self.examples}, {self.min_area} and "
                f"{self.repeat}"
            )


class Drawn(NamedTuple):
    """The draws of a batch.

    Attributes:
        categories: (B, G R) int64, the category of each prompt, on the host.
        queries: (B, G R) int64, the model's query whose content and position each prompt takes.
        present: (B, G R) bool, True for prompts of categories that are in the image without a mask
            to learn: image-level labels, crowds and small objects.  # A621
        objects: objects of each image that its prompts learn; labels are categories.
        labels: those labels, on the host.
        examples: the objects shown to the decoder; labels are categories.
        shown: (B, E) bool, True for examples that exist.
    """

    categories: Tensor
    queries: Tensor
    present: Tensor
    objects: list[ImageObjects]
    labels: list[Tensor]
    examples: Matched
    shown: Tensor


class _Given(NamedTuple):
    """What is known of an image, on the host."""

    labels: Tensor  # (N,) of its objects
    usable: Tensor  # (N,) bool, neither a crowd nor small
    absent: Tensor  # (K,) bool, categories that annotators have looked for in vain
    incomplete: Tensor  # (K,) bool, categories of which not all objects have masks
    word: Tensor  # hash of key and image


class _Image(NamedTuple):
    """Draws of an image, on the host; rows are numbers of its objects."""

    categories: Tensor  # (G R,)
    queries: Tensor  # (G R,)
    present: Tensor  # (G R,)
    rows: Tensor  # of the objects that are learnt
    examples: Tensor  # (E,)
    shown: Tensor  # (E,)


@torch.no_grad()
def draw(
    batch: SegBatch, key: int, num_classes: int, num_queries: int, options: PromptOptions
) -> Drawn:
    """Draw categories, objects and examples.

    Args:
        batch: images whose labels are categories.
        key: seed of the draws, together with each image's index.
        num_classes: K.
        num_queries: Q, at least R.
        options: numbers.

    Raises:
        ValueError: a box is empty or not finite, or a label is not in [0, K).
    """
    check_targets(batch, num_classes)
    counts, device = batch.count_list(), batch.labels.device
    areas = batch.masks.flatten(1).sum(dim=1) * batch.mask_stride**2
    labels, crowd, areas = torch.stack([batch.labels, batch.crowd.long(), areas]).cpu()
    usable = (crowd == 0) & (areas > options.min_area)
    unknown = torch.zeros(len(batch), num_classes, dtype=torch.bool)
    named = [
        unknown if given is None else given.cpu()
        for given in (batch.negative, batch.not_exhaustive)
    ]
    words = mix(mix(torch.full((), (key + 2**63) % 2**64 - 2**63)) ^ batch.index.cpu())
    parts = (labels.split(counts), usable.split(counts), *named, words)
    drawn = [_draw(_Given(*own), num_queries, options) for own in zip(*parts, strict=True)]
    starts = torch.tensor([0, *counts[:-1]]).cumsum(0)
    rows = [(one.rows + start).to(device) for one, start in zip(drawn, starts, strict=True)]
    shown = torch.stack([one.shown for one in drawn])
    images, slots = shown.nonzero().unbind(1)
    numbers = torch.stack([one.examples for one in drawn])[images, slots]
    examples = (images, slots, numbers, starts[images] + numbers, labels[starts[images] + numbers])
    return Drawn(
        torch.stack([one.categories for one in drawn]),
        torch.stack([one.queries for one in drawn]).to(device),
        torch.stack([one.present for one in drawn]).to(device),
        [ImageObjects(own, batch.labels[own]) for own in rows],
        [own[one.rows] for own, one in zip(labels.split(counts), drawn, strict=True)],
        Matched(*torch.stack(examples).to(device)),
        shown.to(device),
    )


def _draw(given: _Given, num_queries: int, options: PromptOptions) -> _Image:
    """Return the draws of an image."""
    labels, usable, absent, incomplete, word = given
    num_classes = len(absent)
    learnt = torch.zeros(num_classes, dtype=torch.bool)
    present = incomplete.clone()
    present[labels] = True
    learnt[labels[usable]] = True
    tier = torch.where(present, _PRESENT, torch.where(absent, _ABSENT, _OTHER))
    order = (tier + _uniform(word, _CATEGORIES, num_classes)).argsort()
    groups = order[torch.arange(options.categories) % num_classes]  # A620
    categories = groups.repeat_interleave(options.repeat)
    numbers = _uniform(word, _QUERIES, options.categories * num_queries)
    queries = numbers.view(-1, num_queries).topk(options.repeat, dim=1).indices.flatten()
    examples, shown = _examples(labels, usable, word, options.examples)
    return _Image(
        categories,
        queries,
        (present & ~learnt)[categories],
        _learnt_rows(labels, usable, categories, word, options.repeat),
        examples,
        shown,
    )


def _learnt_rows(
    labels: Tensor, usable: Tensor, categories: Tensor, word: Tensor, repeat: int
) -> Tensor:
    """Return the objects of categories with prompts, as many of each as it has prompts.

    Those are drawn at random, except for a single prompt, which chooses its object.  # A626
    """
    order = _uniform(word, _OBJECTS, len(labels)).argsort()
    order = order[usable[order]]
    kept = []
    for label in sorted(set(labels[order].tolist())):
        prompts = int((categories == label).sum())
        own = order[labels[order] == label]
        kept.append(own if repeat == 1 and prompts else own[:prompts])
    return torch.cat(kept).sort().values if kept else order


def _examples(labels: Tensor, usable: Tensor, word: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return (E,) objects and whether they exist: one of each category first, then any."""
    order = _uniform(word, _EXAMPLES, len(labels)).argsort()
    order = order[usable[order]]
    own = labels[order]
    again = (own[:, None] == own).tril(-1).any(dim=1)  # a category that came before
    chosen = order[again.long().argsort(stable=True)][:number]
    examples = torch.zeros(number, dtype=torch.int64)
    examples[: len(chosen)] = chosen
    return examples, torch.arange(number) < len(chosen)


def _uniform(word: Tensor, stream: int, count: int) -> Tensor:
    """Return (count,) numbers in (0, 1)."""
    return uniform(mix(mix(word ^ stream) + torch.arange(count) * STEP))
