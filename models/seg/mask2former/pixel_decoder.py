"""Pixel decoder of Mask2Former (Cheng et al. 2022, arXiv 2112.01527, sec. 3.2.1 and appendix).

Layers of multi-scale deformable attention (Zhu et al. 2021, arXiv 2010.04159) over the cells of the
strides 32, 16 and 8, and one step of a feature pyramid to stride 4. It computes in float32 under
automatic mixed precision, as the authors' does.

Letters: B images, S cells of all three strides, D channels, M heads, L levels, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.attention.deformable import deformable_attention
from models.ops.attention.sine_positions import sine_positions
from models.ops.precision import at_least_float32
from models.seg.queries.padding import valid_cells

_LEVELS, _POINTS, _GROUPS = 3, 4, 32

Size = tuple[int, int]


class PixelFeatures(NamedTuple):
    """Output of the pixel decoder.

    Attributes:
        levels: (B, h w, D) cells of the strides 32, 16 and 8.
        positions: (h w, D) sines and cosines of each.
        sizes: (h, w) of each.
        fine: (B, D, H / 4, W / 4), before the convolution that ``mask_features`` is.
    """

    levels: list[Tensor]
    positions: list[Tensor]
    sizes: list[Size]
    fine: Tensor


class DeformableLayer(nn.Module):
    """Deformable self-attention and a perceptron, each added to its input and normalised.

    Args:
        width: D.
        heads: M; divides the width.
        ffn: width of the perceptron.
    """

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.sampling_offsets = nn.Linear(width, heads * _LEVELS * _POINTS * 2)
        self.attention_weights = nn.Linear(width, heads * _LEVELS * _POINTS)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.norm2 = nn.LayerNorm(width)
        self._reset()

    def forward(
        self,
        cells: Tensor,
        positions: Tensor,
        places: Tensor,
        sizes: Sequence[Size],
        padding: Tensor | None,
    ) -> Tensor:
        """Return the cells after the layer.

        Args:
            cells: (B, S, D).
            positions: (S, D), added to what the places and weights of the samples depend on.
            places: (S, 2), (x, y) of the centres in (0, 1).
            sizes: of the levels.
            padding: (B, S, 1) True where a cell is padding; None if none is.
        """
        batch, count, _ = cells.shape
        asked = cells + positions
        shape = (batch, count, self.heads, _LEVELS, _POINTS)
        extent = cells.new_tensor([[1 / width, 1 / height] for height, width in sizes])
        offsets = self.sampling_offsets(asked).view(*shape, 2)
        locations = torch.addcmul(places[:, None, None, None], offsets, extent[:, None])
        weights = self.attention_weights(asked).view(*shape[:3], -1).softmax(dim=-1).view(shape)
        value = self.value_proj(cells)
        if padding is not None:
            value = value.masked_fill(padding, 0)
        value = value.view(batch, count, self.heads, -1)
        seen = self.output_proj(deformable_attention(value, sizes, locations, weights))
        cells = self.norm1(cells + seen)
        hidden = F.relu(self.linear1(cells))
        out: Tensor = self.norm2(cells + self.linear2(hidden))
        return out

    def _reset(self) -> None:
        """Set the authors' initial weights: heads look into M directions, at 1 to P cells."""
        for linear in (self.value_proj, self.output_proj, self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)
        for linear in (self.value_proj, self.output_proj, self.attention_weights):
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = directions[:, None, None] * torch.arange(1, _POINTS + 1)[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(steps.expand(-1, _LEVELS, -1, -1).flatten())


class PixelDecoder(nn.Module):
    """Deformable layers over three levels and a step of a feature pyramid.

    Args:
        channels: of the four levels of the backbone, finest first.
        width: D, a multiple of 32 and of the heads.
        heads: M.
        layers: number of deformable layers.
        ffn: width of their perceptrons.
    """

    def __init__(
        self, channels: Sequence[int], width: int, heads: int, layers: int, ffn: int
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(_projection(c, width), nn.GroupNorm(_GROUPS, width))
            for c in reversed(channels[1:])
        )
        self.level_embed = nn.Parameter(torch.randn(_LEVELS, width))
        self.layers = nn.ModuleList(DeformableLayer(width, heads, ffn) for _ in range(layers))
        self.lateral = nn.Sequential(
            _caffe2_xavier(nn.Conv2d(channels[0], width, 1, bias=False)),
            nn.GroupNorm(_GROUPS, width),
        )
        self.output = nn.Sequential(
            _caffe2_xavier(nn.Conv2d(width, width, 3, padding=1, bias=False)),
            nn.GroupNorm(_GROUPS, width),
            nn.ReLU(inplace=True),
        )
        self.mask_features = _caffe2_xavier(nn.Conv2d(width, width, 1))

    def forward(
        self, features: Sequence[Tensor], valid: Tensor | None, size: Size
    ) -> PixelFeatures:
        """Return cells and the fine map, in float32 (float64 for such weights).

        Args:
            features: (B, C, h, w) levels of the backbone, strides 4, 8, 16 and 32.
            valid: (B, 2) valid sizes in pixels; None if nothing is padding.
            size: (H, W) of the padded images.
        """
        with torch.autocast(features[0].device.type, enabled=False):
            return self._decode([at_least_float32(level) for level in features], valid, size)

    def _decode(self, features: list[Tensor], valid: Tensor | None, size: Size) -> PixelFeatures:
        fine, *rest = features
        rest.reverse()
        sizes: list[Size] = [(level.shape[2], level.shape[3]) for level in rest]
        cells = torch.cat(
            [_flat(p(level)) for p, level in zip(self.projections, rest, strict=True)], dim=1
        )
        sines = [sine_positions(of, cells.shape[2], cells) for of in sizes]
        positions = torch.cat([s + e for s, e in zip(sines, self.level_embed, strict=True)])
        places = torch.cat([_centres(of, cells) for of in sizes])
        padding = None
        if valid is not None:
            inside = [valid_cells(valid, size, of).flatten(1) for of in sizes]
            padding = ~torch.cat(inside, dim=1)[..., None]
        for layer in self.layers:
            cells = layer(cells, positions, places, sizes, padding)
        levels = list(cells.split_with_sizes([h * w for h, w in sizes], dim=1))
        coarse = levels[-1].transpose(1, 2).reshape(len(cells), -1, *sizes[-1])
        lateral = self.lateral(fine)
        coarse = F.interpolate(coarse, lateral.shape[-2:], mode="bilinear", align_corners=False)
        return PixelFeatures(levels, sines, sizes, self.output(lateral + coarse))


def _projection(channels: int, width: int) -> nn.Conv2d:
    """Return a 1 x 1 convolution with the authors' initial weights."""
    conv = nn.Conv2d(channels, width, 1)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _caffe2_xavier(conv: nn.Conv2d) -> nn.Conv2d:
    """Set the initial weights that depend on the number of inputs alone, and a bias of 0."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _flat(level: Tensor) -> Tensor:
    """Return the cells (B, h w, C) of a map (B, C, h, w)."""
    return level.flatten(2).transpose(1, 2)


def _centres(size: Size, like: Tensor) -> Tensor:
    """Return (h w, 2), (x, y) of the centres of a map's cells as fractions of its sides."""
    y, x = ((torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) / n for n in size)
    return torch.stack([x.expand(size), y[:, None].expand(size)], dim=-1).flatten(0, 1)
