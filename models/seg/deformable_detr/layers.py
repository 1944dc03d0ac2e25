"""Layers of Deformable DETR (Zhu et al. 2021, arXiv 2010.04159): attention, encoder, decoder.

Letters: B images, S cells of all levels, Q queries, C width, M heads, L levels, P points per level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.attention.deformable import deformable_attention
from models.ops.precision import at_least_float32

Shapes = Sequence[tuple[int, int]]
_BOX = 4


class DeformableAttention(nn.Module):
    """Attention of queries to a few learned locations around their reference points (eq. 3).

    Args:
        width: C, divisible by ``heads``.
        heads: M.
        levels: L.
        points: P.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Point p of a head starts p + 1 cells from the reference, in the head's direction."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ways = torch.stack([angles.cos(), angles.sin()], dim=1)
        ways = ways / ways.abs().amax(dim=1, keepdim=True)
        steps = torch.arange(1.0, self.points + 1)
        offsets = (ways[:, None, None] * steps[:, None]).expand(-1, self.levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for zero in (self.sampling_offsets.weight, *self.attention_weights.parameters()):
            nn.init.zeros_(zero)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, queries: Tensor, references: Tensor, memory: Tensor, shapes: Shapes, valid: Tensor
    ) -> Tensor:
        """Return (B, Q, C).

        Args:
            queries: (B, Q, C), with their position.
            references: (B, Q, L, 2) points or (B, Q, L, 4) boxes, (centre x, centre y, width,
                height), as fractions of each level.
            memory: (B, S, C).
            shapes: (height, width) of each level.
            valid: (B, S) bool, False where a cell is padding, whose value is 0.
        """
        batch, number, width = queries.shape
        grid = (batch, number, self.heads, self.levels, self.points)
        value = self.value_proj(memory).masked_fill(~valid[..., None], 0)
        value = at_least_float32(value).view(batch, -1, self.heads, width // self.heads)
        offsets = at_least_float32(self.sampling_offsets(queries)).view(*grid, 2)
        weights = at_least_float32(self.attention_weights(queries))
        weights = weights.view(*grid[:3], -1).softmax(dim=-1).view(grid)
        centres = references[:, :, None, :, None, :2]
        if references.shape[-1] == _BOX:
            scale = references[:, :, None, :, None, 2:] / (2 * self.points)
        else:
            sides = torch.tensor([(w, h) for h, w in shapes], device=offsets.device)
            scale = 1 / sides.to(offsets.dtype)[:, None]
        attended = deformable_attention(value, shapes, centres + offsets * scale, weights)
        output: Tensor = self.output_proj(attended.to(queries.dtype))
        return output


class EncoderLayer(nn.Module):
    """Deformable self-attention of the cells of all levels, then two linear layers (sec. 4.1)."""

    def __init__(
        self, width: int, heads: int, levels: int, points: int, ffn: int, drop: float
    ) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads, levels, points)
        self.attention_norm = nn.LayerNorm(width)
        self.ffn = feed_forward(width, ffn, drop)
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(drop)

    def forward(
        self, cells: Tensor, positions: Tensor, references: Tensor, shapes: Shapes, valid: Tensor
    ) -> Tensor:
        """Return the cells (B, S, C) after the layer; see ``DeformableAttention``."""
        seen = self.attention(cells + positions, references, cells, shapes, valid)
        cells = self.attention_norm(cells + self.dropout(seen))
        output: Tensor = self.ffn_norm(cells + self.ffn(cells))
        return output


class DecoderLayer(nn.Module):
    """Self-attention of the queries, deformable attention to the memory, two linear layers."""

    def __init__(
        self, width: int, heads: int, levels: int, points: int, ffn: int, drop: float
    ) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, drop, batch_first=True)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = DeformableAttention(width, heads, levels, points)
        self.cross_norm = nn.LayerNorm(width)
        self.ffn = feed_forward(width, ffn, drop)
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(drop)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        references: Tensor,
        memory: Tensor,
        shapes: Shapes,
        valid: Tensor,
    ) -> Tensor:
        """Return the queries (B, Q, C) after the layer; see ``DeformableAttention``."""
        placed = queries + positions
        seen = self.self_attention(placed, placed, queries, need_weights=False)[0]
        queries = self.self_norm(queries + self.dropout(seen))
        seen = self.cross_attention(queries + positions, references, memory, shapes, valid)
        queries = self.cross_norm(queries + self.dropout(seen))
        output: Tensor = self.ffn_norm(queries + self.ffn(queries))
        return output


class MLP(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        sizes = ((width, width), (width, width), (width, outputs))
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)

    def forward(self, values: Tensor) -> Tensor:
        """Return (..., outputs) for (..., width)."""
        first, second, last = self.layers
        output: Tensor = last(F.relu(second(F.relu(first(values)))))
        return output


def feed_forward(width: int, hidden: int, drop: float) -> nn.Sequential:
    """Return linear, ReLU, dropout, linear, dropout (A567)."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Dropout(drop),
        nn.Linear(hidden, width),
        nn.Dropout(drop),
    )


def inverse_sigmoid(fractions: Tensor, eps: float = 1e-5) -> Tensor:
    """Return the logit of fractions, which are moved away from 0 and 1 by at least ``eps``."""
    fractions = fractions.clamp(0, 1)
    return torch.log(fractions.clamp(min=eps) / (1 - fractions).clamp(min=eps))
