"""Collation of images of different sizes into one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from structures import SegBatch
from structures.seg_batch import IMAGE_LABELS


def _padded(parts: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Stack (n_i, ..., h_i, w_i) along the first axis, with zeros at the bottom and right."""
    first = parts[0]
    if all(part.shape[-2:] == (height, width) for part in parts):
        return first if len(parts) == 1 else torch.cat(list(parts))
    total = sum(part.shape[0] for part in parts)
    out = first.new_zeros((total, *first.shape[1:-2], height, width))
    start = 0
    for part in parts:
        stop = start + part.shape[0]
        out[start:stop, ..., : part.shape[-2], : part.shape[-1]] = part
        start = stop
    return out


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return labels of images together; None if an image has none."""
    given = [part for part in parts if part is not None]
    return torch.cat(given) if len(given) == len(parts) else None


def collate_images(images: Sequence[SegBatch], size_multiple: int = 1) -> SegBatch:
    """Pad one-image batches to their largest height and width and pack their instances.

    Args:
        images: batches with the same ``mask_stride``.
        size_multiple: the padded height and width are rounded up to a multiple of this, so that
            feature maps of strided networks line up; 32 suits every pyramid down to stride 32.

    Returns:
        The batch. Nothing is rescaled: boxes and masks keep their values, because padding is added
        at the bottom and right only.

    Raises:
        ValueError: the list is empty, the mask strides differ, or some images lack a clean view.
    """
    if not images:
        raise ValueError("cannot collate an empty list of images")
    strides = {image.mask_stride for image in images}
    if len(strides) > 1:
        raise ValueError(f"images with different mask strides in one batch: {sorted(strides)}")
    stride = strides.pop()
    height, width = (
        -(-max(image.images.shape[axis] for image in images) // size_multiple) * size_multiple
        for axis in (-2, -1)
    )
    clean = [p.clean_images for p in images if p.clean_images is not None]
    if len(clean) not in (0, len(images)):
        raise ValueError("only some images of a batch have a clean view")
    return SegBatch(
        images=_padded([p.images for p in images], height, width),
        sizes=torch.cat([p.sizes for p in images]),
        boxes=torch.cat([p.boxes for p in images]),
        labels=torch.cat([p.labels for p in images]),
        masks=_padded([p.masks for p in images], -(-height // stride), -(-width // stride)),
        counts=torch.cat([p.counts for p in images]),
        crowd=torch.cat([p.crowd for p in images]),
        index=torch.cat([p.index for p in images]),
        original_sizes=torch.cat([p.original_sizes for p in images]),
        image_ids=tuple(i for p in images for i in p.image_ids),
        mask_stride=stride,
        clean_images=_padded(clean, height, width) if clean else None,
        **{name: _joined([getattr(p, name) for p in images]) for name in IMAGE_LABELS},
    )


def start_worker(worker_id: int) -> None:
    """Leave OpenCV one thread, since the workers of a loader already share the cores."""
    import cv2

    cv2.setNumThreads(0)
