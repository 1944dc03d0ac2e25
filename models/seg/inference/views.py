"""Views of an image and fusion of their predictions (test-time augmentation).

Weighted boxes fusion (Solovyev et al. 2021, arXiv 1910.13302, sec. 3) extended to masks: boxes are
the means of a cluster's boxes weighted by score, the score is the cluster's mean times
min(T, V) / V for T predictions in V views, and a pixel belongs to the mask if the predictions that
contain it have at least half of the cluster's score (A243). With one prediction per view and
cluster the score is the sum over V: a view that missed the object counts as 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.masks.merge import view_clusters
from structures import Instances, SegBatch
from structures.rle_packed import combine, concatenate, flip

LARGEST_FRAME: Final = 1 << 28  # pixels of a resized image: 3 GiB of float32 (A256)

Floats = npt.NDArray[np.float64]
_VOTES = 1 << 20  # votes of a score of 1: integers are summed exactly


class View(NamedTuple):
    """View of an image at ``scale`` times its size, mirrored horizontally, vertically or both."""

    scale: float = 1.0
    horizontal: bool = False
    vertical: bool = False


def transformed(batch: SegBatch, view: View) -> SegBatch:
    """Return a view of the images of a batch, without targets.

    Only the valid area is resized and mirrored; it stays in the upper left corner. Predictions
    still refer to the frame of the original images.

    Raises:
        ValueError: an image would have more than ``LARGEST_FRAME`` pixels.
    """
    if view == View():
        return batch
    names = batch.image_ids or batch.index.tolist()
    frames = []
    for name, image, (height, width) in zip(names, batch.images, batch.sizes.tolist(), strict=True):
        pixels = image[:, :height, :width]
        if view.scale != 1:
            size = [max(1, int(side * view.scale + 0.5)) for side in (height, width)]
            if size[0] * size[1] > LARGEST_FRAME:
                raise ValueError(
                    f"image {name}, {height} px high and {width} px wide at the network's input, "
                    f"would be a view of {size[0]} x {size[1]} at scale {view.scale:g}; at most "
                    f"{LARGEST_FRAME} pixels can be predicted: choose smaller scales"
                )
            pixels = _resized(pixels, size)
        axes = [axis for axis, on in ((2, view.horizontal), (1, view.vertical)) if on]
        frames.append(pixels.flip(axes))
    sizes = [list(pixels.shape[1:]) for pixels in frames]
    high, wide = (max(side) for side in zip(*sizes, strict=True))
    images = [F.pad(p, (0, wide - p.shape[2], 0, high - p.shape[1])) for p in frames]
    return dataclasses.replace(
        batch,
        images=torch.stack(images),
        sizes=batch.sizes.new_tensor(sizes),
        boxes=batch.boxes[:0],
        labels=batch.labels[:0],
        masks=batch.masks.new_zeros(0, high, wide),
        counts=torch.zeros_like(batch.counts),
        crowd=batch.crowd[:0],
        mask_stride=1,
    )


def _resized(pixels: Tensor, size: list[int]) -> Tensor:
    """Resize (3, h, w) with aligned borders; shrinking averages pixels to prevent aliasing."""
    found = F.interpolate(
        pixels[None].float(), size=size, mode="bilinear", align_corners=False, antialias=True
    )
    return found[0].to(pixels.dtype)


def restored(instances: Instances, view: View) -> Instances:
    """Transform the predictions of a view back to the frame of the original image."""
    boxes, masks = instances.boxes, instances.masks
    height, width = instances.size
    if view.horizontal:
        left, top, right, bottom = boxes.unbind(1)
        boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
        masks = None if masks is None else flip(masks, "horizontal")
    if view.vertical:
        left, top, right, bottom = boxes.unbind(1)
        boxes = torch.stack([left, height - bottom, right, height - top], dim=1)
        masks = None if masks is None else flip(masks, "vertical")
    return dataclasses.replace(instances, boxes=boxes, masks=masks)


def fuse_views(found: Sequence[Instances], fuse_iou: float, max_dets: int | None) -> Instances:
    """Fuse the predictions of the views of one image.

    Args:
        found: predictions of each view, in the frame of the original image.
        fuse_iou: mask IoU from which predictions are fused to one object; at least one half.
        max_dets: largest number of objects; None for all.

    Returns:
        Objects, best score first. Mask quality is the mean weighted by score.

    Raises:
        ValueError: predictions have no masks.
    """
    packs = [one.masks for one in found if one.masks is not None]
    if len(packs) < len(found):
        raise ValueError(
            "views are fused by masks and these predictions have none; predict one view"
        )
    size, device = found[0].size, found[0].boxes.device
    masks = concatenate(packs, size)
    boxes, scores, labels = (
        torch.cat([getattr(one, name) for one in found]).cpu().double().numpy()
        for name in ("boxes", "scores", "labels")
    )
    labels = labels.astype(np.int64)
    view = np.repeat(np.arange(len(found)), [len(one) for one in found])
    cluster = view_clusters(masks, boxes, scores, labels, view, fuse_iou)
    count = int(cluster.max()) + 1 if cluster.size else 0
    weights = np.maximum(np.rint(scores * _VOTES), 1).astype(np.int64)
    total = np.bincount(cluster, weights, minlength=count)

    def mean(values: Floats) -> Floats:
        return np.bincount(cluster, weights * values, minlength=count) / total

    score = np.bincount(cluster, scores, minlength=count) / len(found)
    order = np.argsort(-score, kind="stable")[:max_dets]
    fused = combine(masks, cluster, ((total + 1) // 2).astype(np.int64), weights)
    label = np.zeros(count, dtype=np.int64)
    label[cluster] = labels
    qualities = [one.quality for one in found if one.quality is not None]
    quality = None
    if len(qualities) == len(found):
        quality = _tensor(mean(torch.cat(qualities).cpu().double().numpy())[order], found[0].scores)
    hull = np.stack([mean(boxes[:, side]) for side in range(4)], axis=1)
    return Instances(
        boxes=_tensor(hull[order], found[0].boxes),
        scores=_tensor(score[order], found[0].scores),
        labels=torch.from_numpy(label[order]).to(device),
        size=size,
        masks=fused.select(order.tolist()),
        quality=quality,
    )


def _tensor(values: Floats, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)
