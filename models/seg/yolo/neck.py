"""Path aggregation network (Liu et al. 2018, arXiv 1803.01534), the neck of one-stage models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.csp import Scale
from models.backbones.csp_layers import SPPF, C2f, ConvNormAct


class PathAggregation(nn.Module):
    """Path aggregation network between the levels of strides 8, 16 and 32.

    ``forward`` takes P3, P4, P5 of any widths and returns N3, N4, N5 of the same resolutions and
    ``out_channels`` channels. Maps are concatenated, upsampling is nearest-neighbour. P5 first
    passes through spatial pyramid pooling, which in the published network is the last layer of the
    backbone; here it is applied to every backbone (A200).

    Args:
        in_channels: channels of P3, P4, P5.
        scale: depth and width.
    """

    out_channels: tuple[int, int, int]

    def __init__(self, in_channels: tuple[int, ...], scale: Scale) -> None:
        super().__init__()
        in3, in4, in5 = in_channels
        c3, c4, c5 = (scale.channels(base) for base in (256, 512, 1024))
        repeats = scale.repeats(3)
        self.pool = SPPF(in5, c5)
        self.down4 = C2f(c5 + in4, c4, repeats, shortcut=False)
        self.down3 = C2f(c4 + in3, c3, repeats, shortcut=False)
        self.halve3 = ConvNormAct(c3, c3, 3, stride=2)
        self.up4 = C2f(c3 + c4, c4, repeats, shortcut=False)
        self.halve4 = ConvNormAct(c4, c4, 3, stride=2)
        self.up5 = C2f(c4 + c5, c5, repeats, shortcut=False)
        self.out_channels = (c3, c4, c5)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Return N3, N4, N5."""
        p3, p4, p5 = levels
        pooled = self.pool(p5)
        middle = self.down4(torch.cat((_double(pooled), p4), dim=1))
        n3 = self.down3(torch.cat((_double(middle), p3), dim=1))
        n4 = self.up4(torch.cat((self.halve3(n3), middle), dim=1))
        n5 = self.up5(torch.cat((self.halve4(n4), pooled), dim=1))
        return [n3, n4, n5]


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="nearest")
