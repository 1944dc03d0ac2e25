"""ACMIL: attention-challenging multiple-instance learning.

Zhang et al., "Attention-Challenging Multiple Instance Learning for Whole Slide Image
Classification", ECCV 2024, arXiv 2311.07125. Attention that concentrates on a few instances
overfits; two measures spread it. Several dissimilar maps, each with its own classifier, attend to
different patterns (MBA), and in training some of the strongest instances of each map are masked
(STKIM):

    h_n   = relu(P x_n)
    s_nk  = w_k^T (tanh(V h_n) * sigmoid(U h_n)),  a_nk = softmax_n(s_nk)                K maps
    z_k   = sum_n a_nk h_n,                        branch k = W_k z_k + b_k
    a_n   = (1/K) sum_k a_nk,  z = sum_n a_n h_n,  bag = W z + b
    STKIM: of the T largest s_nk of a map, a random share become -1e9 before the softmax

Losses: ``bag``; ``branch``, the mean over the K branches; ``similarity``, the mean over pairs of
maps of the cosine between (a_nk)_n and (a_nl)_n.

The instances masked among a map's T strongest are a function of (key, bag, instance); their number
is rounded down, so that at least one remains. All three losses use the masked maps (A110).

Letters: N instances of B bags, E embedding width, K maps, C logits.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.losses.bag_classification import mean_over_bags
from models.losses.bag_loss import bag_terms
from models.mil.layers.gated_attention import GatedAttention
from models.mil.layers.inner_width import inner_width
from models.mil.protocol import Reduction, num_logits, positive_widths
from models.ops.bags.keyed_random import draw_key, random_order
from models.ops.bags.leave_one_out import leave_one_out
from models.ops.bags.ragged import segment_ids, segment_softmax, segment_weighted_sum
from models.ops.bags.ragged_order import segment_rank
from models.ops.precision import at_least_float32
from structures import BagBatch, MILOutput, MILTask

_LEFT_OUT = -1e9  # score of a masked instance; finite, for the entropy of maps


@dataclass(frozen=True, slots=True, kw_only=True)
class ACMILOutput(MILOutput):
    """Output with the logits of the branches.

    Attributes:
        branch_logits: (B, K, C).
    """

    branch_logits: Tensor

    def supervised(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return the bag's logits and those of the branches."""
        return {"bag": (self.logits, None), "branch": (self.branch_logits, None)}


class ACMIL(nn.Module):
    """Attention pooling by several dissimilar maps whose strongest instances are masked at random.

    Args:
        in_features: width of an instance's features.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_size: E; None for the width that the authors use, see `inner_width`.
        attention_dim: width of the attention.
        branches: K.
        masked_top: T, number of a map's strongest instances that may be masked.
        mask_drop: fraction of them that is masked, in [0, 1).

    Raises:
        ValueError: a number is not positive, or the share is outside [0, 1).
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_size: int | None = None,
        attention_dim: int = 128,
        branches: int = 5,
        masked_top: int = 10,
        mask_drop: float = 0.6,
    ) -> None:
        super().__init__()
        hidden_size = inner_width(in_features) if hidden_size is None else hidden_size
        positive_widths(in_features=in_features, hidden_size=hidden_size, masked_top=masked_top)
        if not 0 <= mask_drop < 1:
            raise ValueError(f"mask_drop is a share in [0, 1), got {mask_drop}")
        self.task: MILTask = task
        self.masked_top, self.mask_drop = masked_top, mask_drop
        logits = num_logits(num_classes, task)
        self.embed = nn.Sequential(nn.Linear(in_features, hidden_size, bias=False), nn.ReLU())
        self.attention = GatedAttention(hidden_size, attention_dim, maps=branches)
        self.branch_classifiers = nn.ModuleList(
            nn.Linear(hidden_size, logits) for _ in range(branches)
        )
        self.classifier = nn.Linear(hidden_size, logits)

    def forward(self, bags: BagBatch) -> ACMILOutput:
        """Return logits (B, C), attention (N, K), embeddings (B, E) and the branches' logits."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> ACMILOutput:
        """Return the output for bags of embedded instances."""
        scores = at_least_float32(self.attention(bags.features))  # (N, K)
        if self.training:
            scores = scores.masked_fill(self.left_out(scores, bags, draw_key()), _LEFT_OUT)
        attention = segment_softmax(scores, bags.offsets)
        pooled = segment_weighted_sum(bags.features, attention, bags.offsets)  # (B, K, E)
        embeddings = pooled.mean(dim=1)  # of the mean map, since pooling is linear in the map
        branches = [head(pooled[:, k]) for k, head in enumerate(self.branch_classifiers)]
        return ACMILOutput(
            logits=self.classifier(embeddings),
            attention=attention,
            attention_logits=scores,
            embeddings=embeddings,
            branch_logits=torch.stack(branches, dim=1),
        )

    def leave_one_out(self, bags: BagBatch) -> Tensor:
        """Return what each logit of a bag loses without each of its instances, (N, C)."""
        instances = self.embed_bags(bags).features
        scores = at_least_float32(self.attention(instances))  # (N, K)
        values = (instances @ self.classifier.weight.T).unsqueeze(2)  # (N, C, 1)
        by_map = values.expand(-1, -1, scores.shape[1])
        return leave_one_out(by_map, scores, bags.offsets).mean(dim=2)

    def left_out(self, scores: Tensor, bags: BagBatch, key: int) -> Tensor:
        """Return (N, K) bool, True where an instance is masked in a map.

        Args:
            scores: (N, K) before the softmax.
            bags: the bags.
            key: key of the random choice.
        """
        counts = [int(top * self.mask_drop) for top in range(self.masked_top + 1)]
        reachable = bags.sizes().clamp(max=self.masked_top)
        drops = torch.tensor(counts, device=scores.device)[reachable]  # (B,)
        drops = drops[segment_ids(bags.offsets, scores.shape[0])].unsqueeze(1)  # (N, 1)
        top = segment_rank(scores, bags.offsets, descending=True) < self.masked_top
        streams = [random_order(bags, key, stream) for stream in range(scores.shape[1])]
        lots = torch.stack(streams, dim=1).masked_fill(~top, torch.iinfo(torch.int64).max)
        return (segment_rank(lots, bags.offsets) < drops) & top

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag``, ``branch`` and ``similarity``: scalars, or (B,).

        Raises:
            TypeError: the output is not an ``ACMILOutput``.
        """
        if not isinstance(output, ACMILOutput) or output.attention is None:
            raise TypeError(f"ACMIL's losses need an ACMILOutput, got {type(output).__name__}")
        similar = map_similarity(output.attention, bags.offsets)
        similarity = similar if reduction == "none" else mean_over_bags(similar)
        terms = bag_terms(output, bags.labels, self.task, reduction)
        return terms | {"similarity": similarity}


def map_similarity(attention: Tensor, offsets: Tensor) -> Tensor:
    """Return the mean cosine between the maps of each bag, over the pairs of maps.

    Args:
        attention: (N, K), sums to 1 in each bag.
        offsets: (B + 1,) int64.

    Returns:
        (B,) in [0, 1]; 0 for a single map.
    """
    maps = attention.shape[1]
    products = segment_weighted_sum(attention, attention, offsets)  # (B, K, K)
    lengths = products.diagonal(dim1=1, dim2=2).sqrt()  # (B, K)
    cosines = products / (lengths.unsqueeze(1) * lengths.unsqueeze(2))
    first, second = torch.triu_indices(maps, maps, offset=1, device=attention.device)
    return cosines[:, first, second].sum(dim=1) / max(len(first), 1)
