"""Contrast of object and background queries with the centre of the object queue.

With z the normalised embedding of a query, c the centre, t the temperature, and P and N the
positive and negative queries of an image,

    mean   -1/|P| sum_{i in P} log( e^{c z_i / t} / (e^{c z_i / t} + sum_{j in N} e^{c z_j / t}) )
    sum    the mean over the objects of -log( S_P / (S_P + sum_{j in N} e^{c z_j / t}) ),
           S_P = sum of e^{c z_i / t} over the positives i of the object

Positives are what SimOTA assigns to an object by its 10 largest IoUs. Negatives are

    ring     what it assigns by the 100 largest IoUs and not by 10, near a labelled object but worse
    outside  what it does not assign by 100 either, as in IDOL (arXiv 2207.10661), at most 10 for a
             positive, drawn at random, and none whose predicted IoU says that it is an object

Assumptions A611, A612 and A613.

Letters: B images, Q queries, C width, M objects.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.distributed import LossTerm, sum_by_image
from structures.keyed_words import mix

Negatives = Literal["ring", "outside"]
Form = Literal["mean", "sum"]

_EACH = 10  # negatives of `outside` for a positive


@torch.no_grad()
def outside_negatives(owners: Tensor, free: Tensor, index: Tensor, key: int) -> Tensor:
    """Choose negatives far from labelled objects.

    Args:
        owners: (B, Q) int64, the object of a positive query, else -1.
        free: (B, Q) bool, queries that may be negatives.
        index: (B,) int64, numbers of the images.
        key: of the step; the choice depends on (key, image, query) alone.

    Returns:
        (B, Q) bool.
    """
    word = (key + 2**63) % 2**64 - 2**63
    places = torch.arange(owners.shape[1], device=owners.device)
    words = mix(mix(mix(torch.full((), word, device=owners.device)) ^ index)[:, None] ^ places)
    words = words.masked_fill(~free, torch.iinfo(words.dtype).max)
    rank = words.argsort(dim=1, stable=True).argsort(dim=1)
    return free & (rank < _EACH * (owners >= 0).sum(dim=1, keepdim=True))


def contrast_term(
    embeddings: Tensor,
    centre: Tensor,
    owners: Tensor,
    negative: Tensor,
    counts: list[int],
    temperature: float,
    form: Form,
) -> LossTerm:
    """Return the contrast of each image.

    Args:
        embeddings: (B, Q, C) of length 1.
        centre: (C,) of length 1, without a gradient.
        owners: (B, Q) int64, the object of a positive query among those of all images, else -1.
        negative: (B, Q) bool.
        counts: objects of each image.
        temperature: t.
        form: ``mean`` counts positives, ``sum`` objects with a positive.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        near = embeddings @ centre.to(embeddings) / temperature  # (B, Q)
    lowest = torch.finfo(near.dtype).min / 2
    against = near.masked_fill(~negative, lowest).logsumexp(dim=1)  # lowest without negatives
    positive = owners >= 0
    if form == "mean":
        each = F.softplus(against[:, None] - near) * positive
        return LossTerm(each.sum(dim=1), positive.sum(dim=1))
    own, some = _log_sums(near.flatten(), owners.flatten(), sum(counts))
    images = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(owners.device)
    loss = F.softplus(against[images] - own) * some + near.sum() * 0
    each = sum_by_image(loss, images, len(counts))
    return LossTerm(each, sum_by_image(some.to(near.dtype), images, len(counts)))


def _log_sums(values: Tensor, groups: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return (number,) log of the sum of exponentials of each group, and whether it has a value.

    Args:
        values: (N,).
        groups: (N,) int64, -1 for values of no group.
        number: of groups; 0 stands for the sum of an empty one.
    """
    place = torch.where(groups < 0, number, groups)
    empty = values.new_full((number + 1,), -torch.inf)
    peak = empty.scatter_reduce(0, place, values.detach(), "amax")
    some = peak > -torch.inf
    peak = torch.where(some, peak, 0)
    total = torch.zeros_like(peak).index_add(0, place, (values - peak[place]).exp())
    logs = torch.where(some, total, 1).log() + peak
    return logs[:number], some[:number]
