"""Mask head of the code family of IDOL: mask features of the encoder, dynamic masks of the queries.

After VNext (Wu et al. 2022, arXiv 2207.10661, projects/IDOL; Apache-2.0) and CondInst (arXiv
2003.05664): the memory at strides 8, 16 and 32 is added from coarse to fine, with a convolution of
3 x 3 cells after each sum, and reduced to 8 channels at stride 8; an MLP gives each query the 169
parameters of models/ops/masks/dynamic.py; the logits are enlarged to stride 4 (A563).

Letters: B images, N queries, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.masks.dynamic import dynamic_masks, parameter_count, upsample_aligned
from models.seg.deformable_detr.layers import MLP

FEATURE_STRIDE, MASK_STRIDE = 8, 4
_CHANNELS = 8


class MaskHead(nn.Module):
    """Masks of queries.

    Args:
        width: C, divisible by 4.
    """

    new_weights = ("",)  # published files of Deformable DETR have no masks

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fuse = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.reduce = nn.Sequential(
            nn.Conv2d(width, width // 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 4, _CHANNELS, 3, padding=1),
            nn.ReLU(),
        )
        self.controller = MLP(width, parameter_count(_CHANNELS))
        for layer in (*self.fuse, *self.reduce):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for linear in self.controller.layers:
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def features(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the mask features (B, 8, H / 8, W / 8).

        Args:
            levels: memory at strides 8, 16 and 32, (B, C, h, w), zero where it is padding.
        """
        coarse_first = [*reversed(levels)]
        fused = F.relu(self.fuse[0](coarse_first[0]))
        for conv, (_, finer) in zip(self.fuse[1:], pairwise(coarse_first), strict=True):
            fused = F.relu(conv(finer + F.interpolate(fused, size=finer.shape[-2:])))
        reduced: Tensor = self.reduce(fused)
        return reduced

    def forward(self, features: Tensor, queries: Tensor, references: Tensor) -> Tensor:
        """Return mask logits (B, N, H / 4, W / 4), in at least float32.

        Args:
            features: output of ``features``.
            queries: (B, N, C), N may be 0.
            references: (B, N, 2) pixels, (x, y).
        """
        logits = dynamic_masks(features, self.controller(queries), references, FEATURE_STRIDE)
        return upsample_aligned(logits, FEATURE_STRIDE // MASK_STRIDE)
