"""Global recycling of MHIM-v2: compression of discarded instances into a few tokens.

Tang et al., "Multiple Instance Learning Framework with Masked Hard Instance Mining for Gigapixel
Histopathology Image Analysis", IJCV 2025, arXiv 2509.11526. K global queries attend to a bag's
instances h_n, with H heads of width d; the same layer norm acts on queries and instances:

    a_kn  = dropout( softmax_n( (W_q LN(q_k))_h . (W_k LN(h_n))_h / sqrt(d) ) )     each head h
    z_k   = dropout( W_o concat_h( sum_n a_kn (W_v LN(h_n))_h ) + b_o )
    q_k  <- m q_k + (1 - m) mean over bags of z_k                  after each optimizer step (A118)

The queries are not trained by gradients. They are a buffer saved in checkpoints, and the mean is
taken over the bags of all processes, so that all processes have the same queries. The weights begin
with Glorot's normal distribution, for which W_k and W_v are one layer, as in the authors' code.

Letters: N instances of B bags, E embedding width, K queries, H heads, d head width.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from models.mil.layers.xavier import xavier_normal
from models.mil.protocol import positive_widths
from models.ops.bags.ragged import segment_ids, segment_softmax, segment_weighted_sum
from structures import BagBatch
from structures.processes import sum_over_processes


class GlobalRecycle(nn.Module):
    """Cross-attention of K global queries that gives K tokens per bag.

    Args:
        width: E, width of the instances and the tokens.
        tokens: K.
        heads: H.
        head_width: d.
        dropout: dropout probability of the attention weights and of the tokens.
        momentum: m.

    Raises:
        ValueError: a width is not positive, or the momentum is outside [0, 1].
    """

    queries: Tensor  # (K, E)

    def __init__(
        self,
        width: int,
        tokens: int,
        *,
        heads: int = 8,
        head_width: int = 64,
        dropout: float = 0.1,
        momentum: float = 0.9999,
    ) -> None:
        super().__init__()
        positive_widths(width=width, tokens=tokens, heads=heads, head_width=head_width)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum lies in [0, 1], got {momentum}")
        self.heads, self.momentum = heads, momentum
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)
        self.dropout = nn.Dropout(dropout)
        bound = math.sqrt(6 / (3 * 16 * 16 + width))  # authors' code, as for the tokens of a ViT
        self.register_buffer("queries", torch.empty(tokens, width).uniform_(-bound, bound))
        self.apply(xavier_normal)

    def forward(self, bags: BagBatch) -> Tensor:
        """Return the tokens of bags of embedded instances, (B, K, E).

        Raises:
            ValueError: the instances have another width.
        """
        if bags.features.shape[1] != self.queries.shape[1]:
            raise ValueError(
                f"instances are embedded to {bags.features.shape[1]} values, but GlobalRecycle has "
                f"width={self.queries.shape[1]}"
            )
        queries = self._by_head(self.query(self.norm(self.queries)))  # (K, H, d)
        both = self.key_value(self.norm(bags.features)).chunk(2, dim=1)
        keys, values = (self._by_head(rows) for rows in both)  # (N, H, d)
        logits = torch.einsum("khd,nhd->nkh", queries, keys) / math.sqrt(keys.shape[2])
        attention = self.dropout(segment_softmax(logits.flatten(1), bags.offsets).view_as(logits))
        # Head by head, because (N, K, H, d) would take gigabytes for large slides.
        pooled = [
            segment_weighted_sum(values[:, h], attention[:, :, h], bags.offsets)  # (B, K, d)
            for h in range(self.heads)
        ]
        tokens: Tensor = self.dropout(self.out(torch.cat(pooled, dim=2)))  # (B, K, E)
        return tokens

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.view(rows.shape[0], self.heads, -1)

    @torch.no_grad()
    def update_queries(self, total: Tensor, bags: int) -> None:
        """Update the queries by the tokens of an optimizer step; every process must call it.

        Args:
            total: (K, E), sum of the tokens over this process's bags.
            bags: number of these bags.
        """
        together = sum_over_processes(torch.cat([total.flatten(), total.new_tensor([bags])]))
        mean = (together[:-1] / together[-1]).view_as(self.queries)
        self.queries.lerp_(mean.to(self.queries.dtype), 1 - self.momentum)


def append_tokens(bags: BagBatch, tokens: Tensor) -> BagBatch:
    """Return the bags with additional instances, which have no coordinates, label or index >= 0.

    Args:
        bags: bags of embedded instances, (N, E).
        tokens: (B, K, E), appended to the instances of each bag.
    """
    count, each = tokens.shape[:2]
    ids = segment_ids(bags.offsets, bags.features.shape[0])
    owners = torch.arange(count, device=ids.device).repeat_interleave(each)
    order = torch.cat([ids, owners]).argsort(stable=True)
    labels, new = bags.instance_labels, ids.new_full((count * each,), -1)
    numbers = -1 - torch.arange(each, device=ids.device).repeat(count)
    steps = torch.arange(count + 1, device=ids.device)
    return dataclasses.replace(
        bags,
        features=torch.cat([bags.features, tokens.flatten(0, 1)])[order],
        offsets=bags.offsets + each * steps,
        coords=None,
        instance_labels=None if labels is None else torch.cat([labels, new])[order],
        instance_index=torch.cat([bags.numbers(), numbers])[order],
    )
