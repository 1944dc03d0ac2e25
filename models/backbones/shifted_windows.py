"""Swin (Liu et al. 2021, arXiv 2103.14030) for images of any size, as its authors apply it.

Where a map is no multiple of the window, the authors pad it at the bottom and right and shift the
result cyclically. timm shifts the map first, so that the rows that leave it at the top are not
followed by padding: the two agree where nothing is padded, as at 224 px, and nowhere else (A550).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.lazy_timm import load_timm

_APART = -100.0  # added to the attention between regions that the shift has brought together


class ShiftedWindowBlock(nn.Module):
    """Block of Swin that pads before it shifts; its tensors are those of timm's block.

    ``forward`` maps (B, H, W, C) to (B, H, W, C).

    Args:
        block: timm's block, whose layers are taken over.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2
        self.window: tuple[int, int] = tuple(block.window_size)
        self.shift: tuple[int, int] = tuple(block.shift_size)

    def forward(self, cells: Tensor) -> Tensor:
        """Return the cells after attention within windows and a perceptron."""
        cells = cells + self.drop_path1(self._attend(self.norm1(cells)))
        out: Tensor = cells + self.drop_path2(self.mlp(self.norm2(cells)))
        return out

    def _attend(self, cells: Tensor) -> Tensor:
        _, height, width, _ = cells.shape
        rows, columns = self.window
        cells = F.pad(cells, (0, 0, 0, -width % columns, 0, -height % rows))
        size = (cells.shape[1], cells.shape[2])
        mask = None
        if any(self.shift):
            cells = torch.roll(cells, (-self.shift[0], -self.shift[1]), dims=(1, 2))
            mask = _region_mask(size, self.window, self.shift, cells)
        windows = self.attn(partition(cells, self.window), mask=mask)
        cells = join(windows, self.window, size)
        if any(self.shift):
            cells = torch.roll(cells, self.shift, dims=(1, 2))
        return cells[:, :height, :width]


def partition(cells: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut (B, H, W, C) into (B N, h w, C) for N windows of h x w cells, row by row."""
    batch, height, width, channels = cells.shape
    rows, columns = window
    grid = cells.view(batch, height // rows, rows, width // columns, columns, channels)
    return grid.transpose(2, 3).reshape(-1, rows * columns, channels)


def join(windows: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Undo ``partition`` for a map of (H, W) cells."""
    (rows, columns), (height, width) = window, size
    channels = windows.shape[-1]
    grid = windows.view(-1, height // rows, width // columns, rows, columns, channels)
    return grid.transpose(2, 3).reshape(-1, height, width, channels)


def _region_mask(
    size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], like: Tensor
) -> Tensor:
    """Return (N, h w, h w) to add to the attention in each window: 0 within a region."""
    parts = []
    for side, extent, step in zip(size, window, shift, strict=True):
        place = torch.arange(side, device=like.device)
        parts.append((place >= side - extent).int() + (place >= side - step).int())
    region = partition((parts[0][:, None] * 3 + parts[1])[None, :, :, None], window)[..., 0]
    apart = region[:, None] != region[:, :, None]
    return torch.zeros_like(apart, dtype=like.dtype).masked_fill_(apart, _APART)


def is_swin(network: nn.Module) -> bool:
    """Return whether a timm network is a Swin of the first version."""
    return bool(_blocks(network))


def pad_before_shift(network: nn.Module) -> None:
    """Replace the blocks of a timm Swin by `ShiftedWindowBlock`, in place."""
    for path in _blocks(network):
        network.set_submodule(path, ShiftedWindowBlock(network.get_submodule(path)))


def _blocks(network: nn.Module) -> list[str]:
    load_timm()
    from timm.models.swin_transformer import SwinTransformerBlock

    return [p for p, m in network.named_modules() if isinstance(m, SwinTransformerBlock)]
