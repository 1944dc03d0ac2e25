"""Backbones of images with four channels, the planes R, Gr, B, Gb of a RAW image (A489)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from formats.weights.public import planes_weight

_RGB, _PLANES = 3, 4


def set_in_channels(network: nn.Module, in_channels: int) -> None:
    """Let a network of RGB images take ``in_channels``, in place; its weights are kept.

    Args:
        network: its first convolution, in the order of its modules, is that of the images.
        in_channels: 3 for RGB, 4 for the planes R, Gr, B, Gb.

    Raises:
        ValueError: another number, or the network takes images of other channels.
    """
    if in_channels not in (_RGB, _PLANES):
        raise ValueError(f"in_channels must be 3 (RGB) or 4 (R, Gr, B, Gb), got {in_channels}")
    conv = next((part for part in network.modules() if isinstance(part, nn.Conv2d)), None)
    found = None if conv is None else conv.in_channels
    if conv is not None and found == _RGB and in_channels == _PLANES:
        with torch.no_grad():
            new = nn.Parameter(planes_weight(conv.weight), conv.weight.requires_grad)
        conv.weight, conv.in_channels = new, in_channels
    elif found == _PLANES != in_channels or in_channels == _PLANES != found:
        raise ValueError(
            f"{type(network).__name__} takes images of {found} channels, not of {in_channels}"
        )


def channel_constants(rgb: Sequence[float], in_channels: int) -> Tensor:
    """Return a value for each channel of an image, (C, 1, 1), G's for both greens.

    >>> channel_constants((1.0, 2.0, 3.0), 4).flatten().tolist()
    [1.0, 2.0, 3.0, 2.0]
    """
    red, green, blue = rgb
    values = [red, green, blue] if in_channels == _RGB else [red, green, blue, green]
    return torch.tensor(values).view(in_channels, 1, 1)
