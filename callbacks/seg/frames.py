"""Conversion of images, targets and predictions of a batch to a common frame for display.

The model receives resized and padded images (`SegBatch`), while predictions are in the frame of the
image file (`Instances`). Both are shown in the frame of the file, reduced if it is large.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from structures import Instances, RLEMasks, SegBatch, rle

Size = tuple[int, int]
_RGB = 3  # channels


def display_size(size: Size, max_side: int) -> Size:
    """Return (height, width) with the longer side reduced to at most ``max_side``.

    >>> display_size((300, 600), 200)
    (100, 200)
    """
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def original_size(batch: SegBatch, position: int) -> Size:
    """Return the (height, width) of the file of the image at ``position``."""
    height, width = batch.original_sizes[position].tolist()
    return height, width


def image_in_frame(batch: SegBatch, position: int, size: Size) -> npt.NDArray[np.uint8]:
    """Return the image at ``position`` without padding, resized to ``size``.

    Of the planes R, Gr, B, Gb the greens are averaged.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    return pixels_of(resized(valid_image(batch, position), size))


def valid_image(batch: SegBatch, position: int) -> Tensor:
    """Return the image at ``position`` without padding as (3, h, w) float in host memory."""
    height, width = batch.sizes[position].tolist()
    valid = batch.images[position, :, :height, :width].detach().float().cpu()
    if len(valid) == _RGB:
        return valid
    red, first, blue, second = valid
    return torch.stack([red, (first + second) / 2, blue])


def resized(image: Tensor, size: Size) -> Tensor:
    """Return an image (3, h, w) resized to ``size``."""
    if image.shape[1:] == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


def pixels_of(image: Tensor) -> npt.NDArray[np.uint8]:
    """Return an image (3, h, w) in [0, 1] as (h, w, 3) uint8."""
    pixels: npt.NDArray[np.uint8] = image.clamp(0, 1).mul_(255).round_().byte().numpy()
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def targets_in_frame(
    batch: SegBatch, position: int, size: Size
) -> tuple[Instances, npt.NDArray[np.bool_]]:
    """Return the true instances of the image at ``position`` in a frame of ``size``.

    Masks are sampled at the centres of the pixels of the frame.

    Returns:
        K instances with score 1, and (K,) whether each is a crowd region.
    """
    height, width = batch.sizes[position].tolist()
    start = int(batch.counts[:position].sum())
    rows = slice(start, start + int(batch.counts[position]))
    scale = torch.tensor([size[1] / width, size[0] / height] * 2)
    y = _centres(height, size[0]) // batch.mask_stride
    x = _centres(width, size[1]) // batch.mask_stride
    dense = (mask.cpu().numpy()[y[:, None], x[None]] for mask in batch.masks[rows])
    truth = Instances(
        boxes=batch.boxes[rows].detach().float().cpu() * scale,
        scores=torch.ones(rows.stop - rows.start),
        labels=batch.labels[rows].cpu(),
        size=size,
        masks=RLEMasks.from_runs((rle.encode(mask.astype(bool)) for mask in dense), size),
    )
    return truth, batch.crowd[rows].cpu().numpy().astype(bool)


def instances_in_frame(instances: Instances, size: Size) -> Instances:
    """Return instances of the original image in a frame of ``size``, in host memory."""
    instances = instances.to("cpu").detach()
    if instances.size == size:
        return instances
    scale = torch.tensor([size[1] / instances.size[1], size[0] / instances.size[0]] * 2)
    masks = instances.masks
    if masks is not None:
        y, x = _centres(masks.size[0], size[0]), _centres(masks.size[1], size[1])
        dense = (rle.decode(runs, masks.size)[y[:, None], x[None]] for runs in masks)
        masks = RLEMasks.from_runs((rle.encode(mask) for mask in dense), size)
    return dataclasses.replace(
        instances, boxes=instances.boxes.float() * scale, size=size, masks=masks
    )


def _centres(source: int, target: int) -> npt.NDArray[np.int64]:
    """Return, for each of ``target`` pixels, the index of the ``source`` pixel at its centre."""
    centres = (np.arange(target) + 0.5) * (source / target)
    return np.minimum(centres.astype(np.int64), source - 1)
