"""Prompts of categories: what is remembered and what is learnt of each.

    content_p  = bank[c] + feature[c] + query_feat[r]
    position_p = bank[c] + place[c] + query_embed[r]

of a prompt p of category c that takes over query r of the model. The bank holds what the decoder
made of examples of the category: their mean m when the category is seen first, and then
bank[c] <- momentum bank[c] + (1 - momentum) m in every step that has examples of it.

Letters: B images, P prompts, E examples, K categories, D channels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from structures.processes import sum_over_processes


class CategoryPrompts(nn.Module):
    """Bank and learnt embeddings of the categories.

    Args:
        num_classes: K.
        width: D.
        momentum: of the bank, in [0, 1).

    Raises:
        ValueError: the momentum is out of range.
    """

    new_weights: ClassVar[tuple[str, ...]] = ("",)  # no file of Mask2Former has them

    def __init__(self, num_classes: int, width: int, momentum: float) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.momentum = momentum
        self.features = nn.Embedding(num_classes, width)  # A623
        self.places = nn.Embedding(num_classes, width)
        self.register_buffer("bank", torch.zeros(num_classes, width))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))
        self.bank: Tensor
        self.seen: Tensor
        self._kept: list[tuple[Tensor, Tensor]] = []  # of the batches since the last update

    def forward(self, categories: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is added to contents and positions of queries, both (B, P, D).

        Args:
            categories: (B, P) int64.
        """
        remembered = self.bank[categories]
        return self.features(categories) + remembered, self.places(categories) + remembered

    def keep(self, outputs: Tensor, categories: Tensor) -> None:
        """Keep outputs of examples for the next update.

        Args:
            outputs: (N, D).
            categories: (N,) int64.
        """
        self._kept.append((outputs.detach(), categories))

    @torch.no_grad()
    def update(self) -> None:
        """Move the bank towards the means of what all processes have kept; all must call it."""
        kept, self._kept = self._kept, []
        sums = self.bank.new_zeros(len(self.bank), self.bank.shape[1] + 1)  # and a count
        for outputs, categories in kept:
            rows = torch.cat([outputs, outputs.new_ones(len(outputs), 1)], dim=1)
            sums.index_add_(0, categories, rows.to(sums.dtype))
        sums = sum_over_processes(sums)
        counts = sums[:, -1:]
        means = sums[:, :-1] / counts.clamp(min=1)
        moved = torch.lerp(means, self.bank, self.momentum)
        found = counts > 0
        moved = torch.where(self.seen[:, None], moved, means)
        self.bank.copy_(torch.where(found, moved, self.bank))
        self.seen |= found[:, 0]
