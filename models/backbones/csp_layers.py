"""Building blocks of cross-stage-partial networks (CSP, Wang et al. 2020, arXiv 1911.11929).

Batch norms have eps 1e-3 and momentum .03; ``convert_norm`` replaces them. Convolutions keep
PyTorch's default initialisation (A202).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NORM_EPS, _NORM_MOMENTUM = 1e-3, 0.03


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, SiLU.

    ``forward`` takes (B, in_channels, H, W) and returns (B, out_channels, ceil(H / stride),
    ceil(W / stride)).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd side of the kernel; padding is half of it.
        stride: stride of the convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv: nn.Conv2d = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=_NORM_EPS, momentum=_NORM_MOMENTUM)

    def forward(self, features: Tensor) -> Tensor:
        """Return the activated map."""
        normed = self.norm(self.conv(features))
        # In place saves one map; with gradients, autograd would copy it anyway.
        return F.silu(normed, inplace=not torch.is_grad_enabled())


class Bottleneck(nn.Module):
    """Two 3x3 convolutions of equal width, with the input added if ``shortcut``."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, channels, 3)
        self.second = ConvNormAct(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, features: Tensor) -> Tensor:
        """Return a map of the input's shape, (B, channels, H, W)."""
        out: Tensor = self.second(self.first(features))
        return features + out if self.shortcut else out


class C2f(nn.Module):
    """Split, a chain of bottlenecks on one half, concatenation of every intermediate map.

    A 1x1 convolution to 2 h channels with h = out_channels / 2; the second half enters a chain of
    ``repeats`` bottlenecks; both halves and the output of each bottleneck, (2 + repeats) h
    channels, go through a 1x1 convolution to ``out_channels``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, even.
        repeats: bottlenecks in the chain, at least 1.
        shortcut: add the input of each bottleneck to its output.
    """

    def __init__(self, in_channels: int, out_channels: int, repeats: int, shortcut: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.split = ConvNormAct(in_channels, 2 * half)
        self.chain = nn.ModuleList(Bottleneck(half, shortcut) for _ in range(repeats))
        self.merge = ConvNormAct((2 + repeats) * half, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        parts = list(self.split(features).chunk(2, dim=1))
        for block in self.chain:
            parts.append(block(parts[-1]))
        merged: Tensor = self.merge(torch.cat(parts, dim=1))
        return merged


class SPPF(nn.Module):
    """Spatial pyramid pooling (He et al. 2015, arXiv 1406.4729) by chained 5x5 maximum pools.

    Three consecutive pools of stride 1 cover 5, 9 and 13 cells; their input and their three
    outputs are concatenated between two 1x1 convolutions.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the hidden layers have half as many.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.reduce = ConvNormAct(in_channels, half)
        self.merge = ConvNormAct(4 * half, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        parts = [self.reduce(features)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], kernel_size=5, stride=1, padding=2))
        merged: Tensor = self.merge(torch.cat(parts, dim=1))
        return merged
