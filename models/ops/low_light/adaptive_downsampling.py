"""Downsampling with a low-pass kernel that the content chooses at every cell.

Adaptive weighted downsampling (AWD) of Chen et al., "Instance Segmentation in the Dark", IJCV 131
(2023), called `AdaDConv` in the authors' code. For an input x (B, C, H, W) and the 3 x 3 taps t of
a cell:

    L = norm(depthwise conv3x3(x))                       9 logits per channel and cell
    a = conv1x1(relu(conv1x1(mean of x over its cells)))     a signed factor per channel
    w = softmax over t of a L,      y = sum_t w_t x_t        x is continued by reflection

The weights of a cell are positive with a sum of 1, so y lies within the range of its
neighbourhood. Letters: B images, C channels, H x W cells of the input, h x w of the output.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TAPS = 9


class AdaptiveDownsample(nn.Module):
    """Low-pass filter whose kernel depends on channel and cell.

    ``forward`` takes (B, C, H, W) and returns (B, C, ceil(H / stride), ceil(W / stride)).

    Args:
        channels: C.
        stride: cells of the input per cell of the output; 1 only blurs.

    Raises:
        ValueError: ``channels`` or ``stride`` is below 1.
    """

    new_weights: ClassVar[tuple[str, ...]] = ("",)  # no public file has any of them

    def __init__(self, channels: int, stride: int = 2) -> None:
        super().__init__()
        if channels < 1 or stride < 1:
            raise ValueError(f"channels and stride must be at least 1, got {channels} and {stride}")
        self.stride = stride
        self.logits = nn.Conv2d(
            channels, _TAPS * channels, 3, stride, 1, groups=channels, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(_TAPS * channels)
        hidden = max(channels // 4, 1)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return the filtered map."""
        # Nine values of a channel that are far apart in channels-last order take twice as long.
        features = features.contiguous()
        gate = self.gate(features.mean(dim=(2, 3), keepdim=True))  # (B, C, 1, 1)
        logits = self.norm(self.logits(features).contiguous())
        logits = logits.unflatten(1, (features.shape[1], _TAPS))  # (B, C, 9, h, w)
        weights = (logits * gate[:, :, None]).softmax(dim=2)
        return _weighted_sum(features, weights, self.stride)


class ChannelAffine(nn.Module):
    """Learned scale and shift of each channel, which is what a batch norm in eval mode is.

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Return the (B, C, H, W) map, scaled and shifted."""
        return features * self.weight[:, None, None] + self.bias[:, None, None]


def _weighted_sum(features: Tensor, weights: Tensor, stride: int) -> Tensor:
    """Sum the nine neighbours of a cell, a tap after the other; nine copies would be unfolded."""
    height, width = weights.shape[-2:]
    # A map of one row or column has no neighbour to reflect (A480).
    mode = "reflect" if min(features.shape[-2:]) > 1 else "replicate"
    padded = F.pad(features, (1, 1, 1, 1), mode=mode)
    total = torch.zeros_like(weights[:, :, 0])
    for tap, weight in enumerate(weights.unbind(dim=2)):
        top, left = divmod(tap, 3)
        rows = slice(top, top + stride * (height - 1) + 1, stride)
        columns = slice(left, left + stride * (width - 1) + 1, stride)
        total = total + weight * padded[:, :, rows, columns]
    return total
