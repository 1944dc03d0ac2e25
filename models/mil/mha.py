"""MHA: pooling by multi-head attention of one learned query, the default aggregator of AEM.

Zhang et al., "AEM: Attention Entropy Maximization for Multiple Instance Learning based Whole Slide
Image Classification", arXiv 2406.15303; attention of Vaswani et al. 2017 (arXiv 1706.03762),
eq. (1):

    h_n   = relu(P x_n)
    q_j   = (W_q q + b_q)_j,  s_nj = q_j^T (W_k h_n)_j / sqrt(d),  a_nj = softmax_n(s_nj)   head j
    o     = concatenation over j of sum_n a_nj (W_v h_n + b_v)_j
    z     = LayerNorm(dropout(W_o o + b_o)),   bag = W z + b

The query q is the same for all bags, so W_k and W_v need not be applied to the instances, which
would cost 2 N E^2 for keys and values:

    s_nj = h_n^T (W_k,j^T q_j) / sqrt(d),   sum_n a_nj W_v,j h_n = W_v,j sum_n a_nj h_n

Keys have no bias: it adds the same value to all scores of a head and cancels in the softmax (A112).

Letters: N instances of B bags, E embedding width, J heads of width d = E / J.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses.bag_loss import bag_terms
from models.mil.layers.inner_width import inner_width
from models.mil.protocol import Reduction, num_logits, positive_widths
from models.ops.bags.ragged import segment_softmax, segment_weighted_sum
from structures import BagBatch, MILOutput, MILTask


class MHA(nn.Module):
    """Multi-head attention of one learned query over the instances of a bag.

    Args:
        in_features: width of an instance's features.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_size: E; None for the width that the authors use (`inner_width`), rounded up to a
            multiple of the heads.
        heads: J.
        dropout: dropout probability of the pooled vector before its normalisation.

    Raises:
        ValueError: a number is not positive, or the heads do not divide the width.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_size: int | None = None,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        positive_widths(in_features=in_features, heads=heads)
        if hidden_size is None:  # rounded up where the heads do not divide it
            hidden_size = -(-inner_width(in_features) // heads) * heads
        positive_widths(hidden_size=hidden_size)
        if hidden_size % heads:
            raise ValueError(f"{heads} heads do not divide a hidden_size of {hidden_size}")
        self.task: MILTask = task
        self.heads = heads
        self.embed = nn.Sequential(nn.Linear(in_features, hidden_size, bias=False), nn.ReLU())
        self.query = nn.Parameter(torch.empty(hidden_size))
        nn.init.normal_(self.query, std=1e-6)
        self.query_projection = nn.Linear(hidden_size, hidden_size)
        self.key_projection = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value_projection = nn.Linear(hidden_size, hidden_size)
        self.output_projection = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.classifier = nn.Linear(hidden_size, num_logits(num_classes, task))

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return logits (B, C), attention (N, J) and embeddings (B, E)."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return the output for bags of embedded instances."""
        query = self.query_projection(self.query).view(self.heads, -1)  # (J, d)
        keys = self.key_projection.weight.view(*query.shape, -1)  # (J, d, E)
        probes = (query.unsqueeze(2) * keys).sum(dim=1) / math.sqrt(query.shape[1])  # (J, E)
        scores = F.linear(bags.features, probes)  # (N, J)
        attention = segment_softmax(scores, bags.offsets)
        means = segment_weighted_sum(bags.features, attention, bags.offsets)  # (B, J, E)
        values = self.value_projection.weight.view(*query.shape, -1)  # (J, d, E)
        heads = torch.einsum("bje,jde->bjd", means, values).flatten(1)  # (B, E)
        mixed = self.output_projection(heads + self.value_projection.bias)
        pooled = self.norm(self.dropout(mixed))
        return MILOutput(
            logits=self.classifier(pooled),
            attention=attention,
            attention_logits=scores,
            embeddings=pooled,
        )

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag``, the loss of the labels: a scalar, or (B,)."""
        return bag_terms(output, bags.labels, self.task, reduction)
