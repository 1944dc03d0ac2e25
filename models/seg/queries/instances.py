"""Predictions of a model with object queries (Mask2Former's instance inference).

The best pairs of query and class are kept, their masks resized to the original image, and

    score = class probability x mean mask probability of the mask's pixels

Letters: B images, Q queries, K classes, h x w cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.losses.box import to_corners
from models.ops.boxes.boxes import rescale_boxes
from models.ops.masks.resized import resize_to_rle
from models.ops.precision import at_least_float32
from models.seg.queries.padding import padded_size
from structures import Instances, SegBatch
from structures.rle import Size


@torch.no_grad()
def query_instances(
    scores: Tensor,
    mask_logits: Tensor,
    batch: SegBatch,
    *,
    max_dets: int,
    size: Size | None = None,
    boxes: Tensor | None = None,
    kept: Tensor | None = None,
    mask_quality: bool = True,
) -> list[Instances]:
    """Choose pairs of query and class and encode their masks.

    A mask is computed once, however many classes its query is chosen for. Pairs with an empty mask
    are dropped.

    Args:
        scores: (B, Q, K) class probabilities, without no object.
        mask_logits: (B, Q, h, w).
        batch: batch whose ``sizes`` and ``original_sizes`` are read.
        max_dets: pairs kept per image.
        size: (height, width) of the padded images; by default multiples of 32.
        boxes: (B, Q, 4), (centre x, centre y, width, height) as fractions of the padded image;
            None for the tight boxes of the masks.
        kept: (B, Q) bool, queries that may be chosen; None for all.
        mask_quality: multiply class probabilities by the mean probability of the mask.

    Returns:
        Predictions of each image in its original frame, the best score first.
    """
    size = size or padded_size(batch)
    scores = at_least_float32(scores)
    if kept is not None:
        scores = scores.masked_fill(~kept.unsqueeze(2), -1)
    found = []
    frames = zip(batch.sizes.tolist(), batch.original_sizes.tolist(), strict=True)
    for image, (valid, original) in enumerate(frames):
        best, place = scores[image].flatten().topk(min(max_dets, scores[image].numel()))
        if kept is not None:
            best, place = best[best >= 0], place[best >= 0]
        queries, labels = place // scores.shape[2], place % scores.shape[2]
        chosen, which = torch.unique(queries, return_inverse=True)
        masks, quality = resize_to_rle(mask_logits[image, chosen], size, valid, original)
        which = which.cpu()
        if mask_quality:
            best = best * quality[which].to(best)
        if boxes is None:
            own = torch.from_numpy(masks.boxes()).to(best.device)[which]
        else:
            scale = torch.tensor([size[1], size[0]] * 2).to(boxes)
            own = to_corners(boxes[image, queries]) * scale
            own = rescale_boxes(own, batch.sizes[image], batch.original_sizes[image])
        seen = (quality[which] > 0).to(best.device)
        order = best.masked_fill(~seen, -1).argsort(descending=True, stable=True)[: int(seen.sum())]
        places = which[order.cpu()].tolist()
        found.append(
            Instances(own[order], best[order], labels[order], masks.size, masks.select(places))
        )
    return found
