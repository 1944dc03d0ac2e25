"""Images of any size as input of a network: normalised, padded with zeros, padding known.

Letters: B images, C channels, H x W pixels of the padded image, h x w cells of a level.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from structures import SegBatch

SIZE_DIVISIBLE = 32


def prepare(batch: SegBatch, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Normalise the images of a batch and pad them to multiples of 32.

    Args:
        batch: images of any size.
        mean: (C, 1, 1), see ``normalise``.
        std: (C, 1, 1).

    Returns:
        (B, C, H, W) images and their (B, 2) valid sizes.
    """
    height, width = padded_size(batch)
    more = (height - batch.images.shape[-2], width - batch.images.shape[-1])
    images = F.pad(batch.images, (0, more[1], 0, more[0])) if any(more) else batch.images
    return normalise(images, batch.sizes, mean, std), batch.sizes


def padded_size(batch: SegBatch) -> tuple[int, int]:
    """Return height and width of the images that ``prepare`` returns."""
    height, width = batch.images.shape[-2:]
    return height + -height % SIZE_DIVISIBLE, width + -width % SIZE_DIVISIBLE


def normalise(images: Tensor, sizes: Tensor | None, mean: Tensor, std: Tensor) -> Tensor:
    """Subtract the mean, divide by the deviation, and set padding to 0.

    Args:
        images: (B, C, H, W) in [0, 1].
        sizes: (B, 2) valid (height, width); None if all pixels are valid.
        mean: (C, 1, 1).
        std: (C, 1, 1).
    """
    images = (images - mean) / std
    if sizes is None:
        return images
    size = (images.shape[-2], images.shape[-1])
    return images.masked_fill(~valid_cells(sizes, size, size)[:, None], 0)


def valid_cells(sizes: Tensor, size: tuple[int, int], level: tuple[int, int]) -> Tensor:
    """Return which cells of a level are not padding: those whose centre is in the image.

    The first row and column are never padding, so that every image has a cell on every level
    (A540).

    Args:
        sizes: (B, 2) int64, valid (height, width).
        size: (H, W) of the padded images.
        level: (h, w) of the level; its cells have H / h x W / w pixels.

    Returns:
        (B, h, w) bool, True where valid.

    >>> valid_cells(torch.tensor([[4, 6]]), (4, 8), (1, 4)).tolist()
    [[[True, True, True, False]]]
    """
    rows, columns = (
        _valid_steps(sizes[:, axis], size[axis], level[axis]) for axis in range(2)
    )  # (B, h), (B, w)
    return rows[:, :, None] & columns[:, None, :]


def check_images(images: Tensor, channels: int) -> None:
    """Check the input of a network.

    Raises:
        ValueError: the images are not (B, channels, H, W) with H and W multiples of 32.
    """
    if images.dim() != 4 or images.shape[1] != channels:
        raise ValueError(f"images must be (B, {channels}, H, W), got {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if height % SIZE_DIVISIBLE or width % SIZE_DIVISIBLE or not height or not width:
        wanted = (max(-(-side // SIZE_DIVISIBLE), 1) * SIZE_DIVISIBLE for side in (height, width))
        raise ValueError(
            f"sides of images must be multiples of {SIZE_DIVISIBLE}, got {height} x {width}; "
            f"pad them at the bottom and right to {' x '.join(map(str, wanted))} "
            "(losses and predict do so themselves)"
        )


def _valid_steps(valid: Tensor, size: int, number: int) -> Tensor:
    """Return (B, number) bool: the centre (c + 1/2) size / number is below ``valid``, or c is 0."""
    step = torch.arange(number, device=valid.device)
    return ((2 * step + 1) * size < 2 * number * valid[:, None]) | (step == 0)
