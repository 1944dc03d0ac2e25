"""Masks by a small network of each instance (CondInst, Tian et al. 2020, arXiv 2003.05664).

The parameters of three 1 x 1 convolutions are predicted for every instance (sec. 3). Their input
are the mask features of the image and the position relative to the instance's reference point:

    x_0 = [reference - pixel, features]        2 + C channels
    x_1 = relu(W_1 x_0 + b_1),  x_2 = relu(W_2 x_1 + b_2),  logit = w_3 x_2 + b_3

W_1 (reference - pixel) is computed as W_1 reference, a shift of the bias, less W_1 pixel, so that
the first layer of all instances of an image is one matrix product and no features are copied.

Letters: B images, N instances of an image, C channels of the features, h x w cells, D hidden
channels, P parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.precision import at_least_float32

HIDDEN = 8


def parameter_count(channels: int, hidden: int = HIDDEN) -> int:
    """Return the number of parameters of one instance, P.

    >>> parameter_count(8)
    169
    """
    return (channels + 2) * hidden + hidden + hidden * hidden + hidden + hidden + 1


def dynamic_masks(features: Tensor, parameters: Tensor, references: Tensor, stride: int) -> Tensor:
    """Compute the mask logits of all instances at the resolution of the features.

    Args:
        features: (B, C, h, w).
        parameters: (B, N, P), the weights of the three layers, row by row, and then their biases;
            the first two inputs of the first layer are x and y of reference - pixel. N may be 0.
        references: (B, N, 2) pixels, (x, y).
        stride: pixels per cell; the cell in column c is at x = stride c + stride // 2.

    Returns:
        (B, N, h, w) in at least float32.

    Raises:
        ValueError: the number of parameters does not fit the features.
    """
    features, parameters = at_least_float32(features), at_least_float32(parameters)
    batch, channels, height, width = features.shape
    if parameters.shape[2] != parameter_count(channels):
        raise ValueError(
            f"{channels} channels need {parameter_count(channels)} parameters per instance, "
            f"got {parameters.shape[2]}"
        )
    number = parameters.shape[1]
    sizes = [(channels + 2) * HIDDEN, HIDDEN * HIDDEN, HIDDEN, HIDDEN, HIDDEN, 1]
    w1, w2, w3, b1, b2, b3 = torch.split(parameters, sizes, dim=2)
    first = w1.view(batch, number, HIDDEN, channels + 2)
    shift = b1 + (first[..., :2] @ references.to(first.dtype).unsqueeze(-1)).squeeze(-1)
    pixels = _pixels(height, width, stride, features).expand(batch, -1, -1)
    cells = torch.cat([-pixels, features.flatten(2)], dim=1)  # (B, 2 + C, h w)
    with torch.autocast(features.device.type, enabled=False):
        values = F.relu(first.flatten(1, 2) @ cells + shift.flatten(1).unsqueeze(-1))
        values = values.view(batch * number, HIDDEN, height * width)
        values = F.relu(torch.baddbmm(*_layer(b2, w2, HIDDEN), values))
        logits = torch.baddbmm(*_layer(b3, w3, 1), values)
    return logits.view(batch, number, height, width)


def upsample_aligned(maps: Tensor, factor: int) -> Tensor:
    """Enlarge maps so that new cell factor i + factor // 2 is old cell i.

    The aligned upsampling of CondInst: new cell j has the value at (j - factor // 2) / factor in
    cells of the old map, bilinearly between the cells, the border's value beyond the border.

    Args:
        maps: (B, N, h, w), N may be 0.
        factor: at least 1.

    Returns:
        (B, N, factor h, factor w).

    >>> upsample_aligned(torch.tensor([[[[0.0, 2.0]]]]), 2)[0, 0, 0].tolist()
    [0.0, 0.0, 1.0, 2.0]
    """
    batch, number, height, width = maps.shape
    if factor == 1:
        return maps
    if not number:
        return maps.reshape(batch, 0, height * factor, width * factor)
    padded = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    size = (factor * height + 1, factor * width + 1)
    larger = F.interpolate(padded, size=size, mode="bilinear", align_corners=True)
    first = factor // 2
    shifted = F.pad(larger, (first, 0, first, 0), mode="replicate")
    return shifted[:, :, : factor * height, : factor * width]


def to_cell_centres(maps: Tensor, stride: int) -> Tensor:
    """Move maps whose cells belong to single pixels to the centres of the cells.

    A cell that was learnt at the pixel in column stride c + stride // 2 is half a pixel off its
    centre, stride (c + 1/2), which resizing without aligned corners takes it for (A569).

    Args:
        maps: (B, N, h, w).
        stride: pixels per cell, even.

    Returns:
        (B, N, h, w), between each cell and the one before; the border's value at the border.
    """
    part = 1 / (2 * stride)
    for axis in (2, 3):
        before = torch.cat(
            [maps.narrow(axis, 0, 1), maps.narrow(axis, 0, maps.shape[axis] - 1)], dim=axis
        )
        maps = torch.lerp(maps, before, part)
    return maps


def _pixels(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """Return (1, 2, h w), x and y of the cells in pixels."""
    x = torch.arange(width, device=like.device) * stride + stride // 2
    y = torch.arange(height, device=like.device) * stride + stride // 2
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return grid.flatten(1).unsqueeze(0).to(like.dtype)


def _layer(bias: Tensor, weight: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """Return (B N, outputs, 1) biases and (B N, outputs, D) weights."""
    count = bias.shape[0] * bias.shape[1]
    return bias.reshape(count, outputs, 1), weight.reshape(count, outputs, HIDDEN)
