"""Non-maximum suppression by class for the images of a whole batch.

Boxes of different classes and images must not suppress each other. Shifting each group by its own
offset achieves this with one call of the plain algorithm, but in float32 the offset costs precision
of the coordinates: with 80 classes of 16 images of 1024 pixels boxes are rounded to an eighth of a
pixel, and in half precision the offsets overflow. Here coordinates are float64 multiples of 2^-20
pixels and offsets whole pixels, so every sum and difference is exact and each IoU equals that of
the group alone bit for bit (A222).

Letters: N candidates, K kept boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from models.ops.precision import has_float64

_STEPS = 2.0**20  # steps per pixel
_LARGEST = 2.0**32  # pixels: together with the steps 52 of 53 bits
_FIRST_LOOK = 4  # candidates examined first, in multiples of the requested boxes
_GROWTH = 4
_AT_ONCE = 1 << 16  # boxes per call on an accelerator: 0.5 GiB, growing with the square


def class_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    images: Tensor,
    *,
    iou_thresh: float,
    max_dets: int,
) -> Tensor:
    """Return the kept boxes, sorted by image and by score within an image.

    Greedy: in order of descending scores (the first of equal ones), a box is kept unless its IoU
    with a kept box of its class and image is above the threshold. Boxes after the first
    ``max_dets`` kept ones cannot change them, so only the best candidates are examined, and more
    only if these do not suffice.

    Args:
        boxes: (N, 4) float of any precision, finite.
        scores: (N,) float.
        labels: (N,) int64, not negative.
        images: (N,) int64, not negative.
        iou_thresh: IoU threshold in [0, 1].
        max_dets: largest number of kept boxes per image.

    Returns:
        (K,) int64 positions; images ascending, scores of an image descending.

    Raises:
        ValueError: labels times the extent of the boxes reach 2^32 pixels and would be inexact.
    """
    device = boxes.device
    if not has_float64(device):
        boxes, scores, labels, images = (x.cpu() for x in (boxes, scores, labels, images))
    return _class_nms(boxes, scores, labels, images, iou_thresh, max_dets).to(device)


def _class_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    images: Tensor,
    iou_thresh: float,
    max_dets: int,
) -> Tensor:
    order = scores.argsort(descending=True, stable=True)
    order = order[images[order].argsort(stable=True)]
    counts = torch.bincount(images)
    rank = torch.arange(len(order), device=order.device)
    rank = rank - (counts.cumsum(0) - counts)[images[order]]  # within its image
    exact = (boxes[order].double() * _STEPS).round() / _STEPS
    classes, owner = labels[order], images[order]
    look, short, kept = _FIRST_LOOK * max_dets, counts > 0, order[:0]
    while True:
        looked_at = (short[owner] & (rank < look)).nonzero().flatten()
        found = looked_at[
            _suppress(exact[looked_at], classes[looked_at], owner[looked_at], iou_thresh)
        ]
        enough = torch.bincount(owner[found], minlength=len(counts)) >= max_dets
        final = short & (enough | (counts <= look))
        kept = torch.cat([kept, found[final[owner[found]]]])
        short = short & ~final
        look *= _GROWTH
        if not bool(short.any()):
            break
    kept = kept.sort().values  # by image and score again
    number = torch.bincount(owner[kept], minlength=len(counts))
    place = torch.arange(len(kept), device=kept.device) - (number.cumsum(0) - number)[owner[kept]]
    return order[kept[place < max_dets]]


def _suppress(boxes: Tensor, labels: Tensor, images: Tensor, iou_thresh: float) -> Tensor:
    """Return the positions of the kept boxes, ascending; boxes are sorted by image and score.

    On an accelerator one call handles all images, or as many as its table of all pairs can hold. On
    the host, where a call compares each kept box with all later ones of any image, one call per
    image is much faster.
    """
    if not len(boxes):
        return labels
    low, high = boxes.amin(), boxes.amax()
    span = (high - low).ceil() + 1
    host = _on_host(boxes)
    group = labels if host else images * (labels.max() + 1) + labels
    distance = group * span
    if float(distance.max() + span + torch.maximum(high.abs(), low.abs())) >= _LARGEST:
        raise ValueError(
            f"boxes {float(span):g} pixels apart of {int(group.max()) + 1} classes in all images "
            "are too many for exact arithmetic; predict fewer images per batch"
        )
    moved = boxes.clone()
    moved[:, 0::2] += distance.unsqueeze(1)
    ranks = -torch.arange(len(boxes), dtype=boxes.dtype, device=boxes.device)  # no ties
    counts = [len(boxes)]
    if host or len(boxes) > _AT_ONCE:
        counts = _calls(torch.bincount(images).tolist(), 0 if host else _AT_ONCE)
    start, kept = 0, []
    for count in counts:
        part = slice(start, start + count)
        kept.append(nms(moved[part], ranks[part], iou_thresh) + start)
        start += count
    return torch.cat(kept).sort().values


def _on_host(boxes: Tensor) -> bool:
    return boxes.device.type == "cpu"


def _calls(counts: list[int], most: int) -> list[int]:
    """Group the boxes of consecutive images up to ``most``; an image is never split."""
    found: list[int] = []
    for count in counts:
        if found and found[-1] + count <= most:
            found[-1] += count
        else:
            found.append(count)
    return found
