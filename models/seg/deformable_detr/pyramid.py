"""Input of the encoder of Deformable DETR: cells of four levels, their positions and padding.

Levels are those of strides 8, 16 and 32 of the backbone, projected, and a convolution of stride 2
on the last (sec. 4.1 of arXiv 2010.04159; its appendix, constructing multi-scale feature maps).

Letters: B images, C width, L levels, S cells of all levels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.ops.attention.sine_positions import sines
from models.seg.queries.padding import valid_cells

_GROUPS = 32


class Cells(NamedTuple):
    """Cells of all levels, level by level and row by row.

    Attributes:
        values: (B, S, C).
        positions: (B, S, C), sine encoding and level embedding.
        valid: (B, S) bool, False for padding.
        shapes: (height, width) of each level.
        ratios: (B, L, 2), fraction of the columns and of the rows of each level that are valid.
    """

    values: Tensor
    positions: Tensor
    valid: Tensor
    shapes: list[tuple[int, int]]
    ratios: Tensor


class Pyramid(nn.Module):
    """Projections to one width, and the encoding of level and position.

    Args:
        channels: widths of the backbone's levels, finest first.
        width: C, divisible by 32.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(own, width, 1) for own in channels]
        convs.append(nn.Conv2d(channels[-1], width, 3, stride=2, padding=1))
        self.projections = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(_GROUPS, width)) for conv in convs
        )
        self.level_embed = nn.Parameter(torch.empty(len(convs), width))
        nn.init.normal_(self.level_embed)
        for conv in convs:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor], sizes: Tensor, size: tuple[int, int]) -> Cells:
        """Project the levels of a backbone.

        Args:
            levels: maps, finest first.
            sizes: (B, 2) int64, valid (height, width) of each image.
            size: (H, W) of the padded images.
        """
        inputs = [*levels, levels[-1]]
        maps = [layer(level) for layer, level in zip(self.projections, inputs, strict=True)]
        shapes = [(level.shape[-2], level.shape[-1]) for level in maps]
        valid = [valid_cells(sizes, size, shape) for shape in shapes]
        width = self.level_embed.shape[1]
        positions = [
            sine_positions(known, width, maps[0].dtype).flatten(1, 2) + embedding
            for known, embedding in zip(valid, self.level_embed, strict=True)
        ]
        values = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        ratios = torch.stack([_valid_ratio(known) for known in valid], dim=1)
        flat = torch.cat([known.flatten(1) for known in valid], dim=1)
        dtype = torch.promote_types(values.dtype, torch.float32)
        return Cells(values, torch.cat(positions, dim=1), flat, shapes, ratios.to(dtype))


def sine_positions(valid: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Encode row and column of each cell by sines, in fractions of the valid area times 2 pi.

    Args:
        valid: (B, h, w) bool.
        width: C, half of which encodes the row and half the column.
        dtype: of the result; at least float32 is used for the computation.

    Returns:
        (B, h, w, C).
    """
    precise = torch.promote_types(dtype, torch.float32)
    known, encoded = valid.to(precise), []
    for axis in (1, 2):
        count = known.cumsum(axis)
        place = (count - 0.5) / (count.narrow(axis, -1 % valid.shape[axis], 1) + 1e-6)
        encoded.append(sines(place, width // 2))
    return torch.cat(encoded, dim=-1).to(dtype)


def cell_centres(cells: Cells) -> Tensor:
    """Return (B, S, L, 2), the centre of each cell as a fraction of every level (x, y)."""
    parts = []
    for level, (height, width) in enumerate(cells.shapes):
        ratio = cells.ratios[:, level]
        x = (torch.arange(width, device=ratio.device) + 0.5) / (ratio[:, :1] * width)  # (B, w)
        y = (torch.arange(height, device=ratio.device) + 0.5) / (ratio[:, 1:] * height)
        x, y = x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)
        parts.append(torch.stack([x, y], dim=-1).flatten(1, 2))
    return torch.cat(parts, dim=1)[:, :, None] * cells.ratios[:, None]


def level_maps(values: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the cells (B, S, C) as maps (B, C, h, w)."""
    parts = torch.split(values, [height * width for height, width in shapes], dim=1)
    maps = [part.transpose(1, 2) for part in parts]  # (B, C, h w)
    return [part.reshape(*part.shape[:2], *shape) for part, shape in zip(maps, shapes, strict=True)]


def _valid_ratio(valid: Tensor) -> Tensor:
    """Return (B, 2), the fraction of valid columns and rows."""
    return torch.stack([valid[:, 0].float().mean(1), valid[:, :, 0].float().mean(1)], dim=1)
