"""Conversion of soft masks in boxes to run-length masks of the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from structures.rle import RLEMasks, Runs, Size, encode_window


def paste_to_rle(soft: Tensor, boxes: Tensor, size: Size, threshold: float = 0.5) -> RLEMasks:
    """Resize each soft mask to its box and encode the pixels at or above the threshold.

    Equals torchvision's ``paste_masks_in_image`` followed by ``mask >= threshold``: a border of one
    zero cell, the box grown by the same factor and truncated to integers, bilinear interpolation
    with half-pixel centres. Only the window of the box is computed, never a full-size mask.

    Args:
        soft: (K, S, S) float, probabilities in [0, 1].
        boxes: (K, 4) float, pixels of the image; parts outside are cut off.
        size: (height, width) of the image.
        threshold: pixels with a value >= threshold belong to the mask.

    Returns:
        K run-length masks of ``size``.
    """
    cells = soft.shape[-1]
    soft = F.pad(soft.detach().float().cpu(), (1, 1, 1, 1))
    windows = _grow(boxes.detach().float().cpu(), (cells + 2) / cells).tolist()
    return RLEMasks.from_runs(
        (
            _encode(mask, window, size, threshold)
            for mask, window in zip(soft, windows, strict=True)
        ),
        size,
    )


def _grow(boxes: Tensor, scale: float) -> Tensor:
    """Grow boxes about their centres and truncate to integers, in torchvision's rounding order."""
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    return torch.cat([centre - half, centre + half], dim=1).long()


def _encode(mask: Tensor, window: list[int], size: Size, threshold: float) -> Runs:
    left, top, right, bottom = window
    shape = (max(bottom - top + 1, 1), max(right - left + 1, 1))
    full = F.interpolate(mask[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0]
    return encode_window((full >= threshold).numpy(), top, left, size)
