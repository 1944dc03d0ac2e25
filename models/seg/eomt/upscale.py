"""Enlargement of patch tokens to the resolution of masks.

Letters: B images, D width, h x w cells.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Upscale(nn.Module):
    """Twice the resolution: transposed convolution, GELU, depthwise 3x3, LayerNorm over channels.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, cells: Tensor, valid: Tensor | None) -> Tensor:
        """Return (B, D, 2 h, 2 w).

        Args:
            cells: (B, D, h, w).
            valid: (B, 2 h, 2 w) bool, cells that are not padding; the depthwise convolution reads
                zeros elsewhere, as outside the image. None if there is no padding.
        """
        cells = F.gelu(self.conv1(cells))
        if valid is not None:
            cells = cells * valid[:, None]
        cells = self.conv2(cells).permute(0, 2, 3, 1)
        enlarged: Tensor = self.norm(cells).permute(0, 3, 1, 2)
        return enlarged
