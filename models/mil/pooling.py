"""Pooling without attention, of embeddings or of instance scores.

There are two ways to make one prediction from many instances (Wang et al., "Revisiting multiple
instance neural networks", Pattern Recognition 2018, arXiv 1610.02501; "MeanMIL" and "MaxMIL" are
the second one on slides):

    embedding level:  logits = W pool_n h(x_n) + b
    instance level:   logits = pool_n (W h(x_n) + b)

The first weighs evidence for and against; the second, with max, is the standard assumption: one
positive instance makes the bag positive. With mean both are the same function, but only the second
gives scores of instances. Pools of the values s_n of one column over N instances:

    mean      (1/N) sum_n s_n
    max       max_n s_n
    top_k     mean of the min(k, N) largest
    lse       (1/r) log( (1/N) sum_n exp(r s_n) )     between mean (r -> 0) and max (r -> infinity)
    lse_sum   (1/r) log( sum_n exp(r s_n) )           grows with the bag
    noisy_or  log-odds of 1 - prod_n (1 - sigmoid(s_n))

Noisy-OR is the probability that at least one of independent instances is positive. It is computed
from T = -sum_n log sigmoid(-s_n) as T + log(1 - exp(-T)), without a probability that could round
to 0 or 1. A bag of N undecided instances is almost surely positive, so its scores have to start
near -log N (``first_bias``) or training stalls. A multiclass task takes the softmax of the C
log-odds: p_c / (1 - p_c) is, up to a common factor, the probability that only class c is present
(A87).

Noisy-OR of embeddings needs values that are log-odds, which a ReLU does not give: a further linear
layer maps an embedding to as many concepts, and the classifier sees the log-odds that each is
present in the bag (A86).

Letters: N instances of B bags, D input width, E embedding width, C logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses.bag_loss import bag_terms
from models.mil.layers.instance_layers import instance_layers
from models.mil.protocol import Reduction, num_logits
from models.ops.bags.ragged import segment_logsumexp, segment_max, segment_mean, segment_sum
from models.ops.bags.ragged_order import segment_topk
from models.ops.precision import at_least_float32
from structures import BagBatch, MILOutput, MILTask

PoolName = Literal["mean", "max", "top_k", "lse", "lse_sum", "noisy_or"]


@dataclass(frozen=True)
class Pool:
    """Pooling function that reduces one value per instance to one value per bag, by column.

    Attributes:
        name: name of the pool, see the module docstring.
        k: k of ``top_k``, at least 1; None for the others.
        sharpness: r of ``lse`` and ``lse_sum``, positive; None for the others.

    Raises:
        ValueError: the name is unknown, or an option is missing, out of range or of another pool.
    """

    name: PoolName
    k: int | None = None
    sharpness: float | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(PoolName):
            raise ValueError(f"pool is one of {get_args(PoolName)}, got {self.name!r}")
        for option, value, users in (
            ("k", self.k, ("top_k",)),
            ("sharpness", self.sharpness, ("lse", "lse_sum")),
        ):
            if self.name in users and (value is None or value <= 0):
                raise ValueError(f"pool {self.name} needs a positive {option}, got {value}")
            if self.name not in users and value is not None:
                raise ValueError(f"pool {self.name} has no {option}, got {value}")

    def __call__(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return (B, C) for values (N, C)."""
        if self.name == "mean":
            return segment_mean(values, offsets)
        if self.name == "max":
            return segment_max(values, offsets)
        if self.name == "noisy_or":
            return noisy_or(values, offsets)
        if self.name == "top_k":
            assert self.k is not None
            return top_k_mean(values, offsets, self.k)
        assert self.sharpness is not None
        pooled = segment_logsumexp(at_least_float32(values) * self.sharpness, offsets)
        if self.name == "lse":
            pooled = pooled - offsets.diff().to(pooled.dtype).log().unsqueeze(1)
        return pooled / self.sharpness


def top_k_mean(values: Tensor, offsets: Tensor, k: int) -> Tensor:
    """Average the k largest values of each bag, all of a smaller bag, column by column.

    Args:
        values: (N, C).
        offsets: (B + 1,) int64, no bag empty.
        k: at least 1.

    Returns:
        (B, C).
    """
    rows, valid = segment_topk(values, offsets, k)  # (B, k, C)
    best = at_least_float32(values).gather(0, rows.flatten(0, 1)).view(rows.shape)
    return best.where(valid, 0.0).sum(1) / valid.sum(1)


def noisy_or(scores: Tensor, offsets: Tensor) -> Tensor:
    """Return the log-odds of 1 - prod(1 - sigmoid(score)) over each bag, column by column.

    Finite for any finite scores. If the probability is so small that it would be rounded to 0, the
    result is the logarithm of the sum of the instances' odds.

    Args:
        scores: (N, C) log-odds.
        offsets: (B + 1,) int64, no bag empty.

    Returns:
        (B, C).

    >>> noisy_or(torch.tensor([[0.0], [0.0]]), torch.tensor([0, 2])).exp().round(decimals=5)
    tensor([[3.]])
    """
    scores = at_least_float32(scores)
    surprise = segment_sum(-F.logsigmoid(-scores), offsets)  # T = -log P(no positive instance)
    smallest = torch.finfo(surprise.dtype).eps
    usual = surprise.clamp(min=smallest)
    log_odds = usual + (-torch.expm1(-usual)).log()
    return torch.where(surprise < smallest, segment_logsumexp(scores, offsets), log_odds)


class _PooledModel(nn.Module):
    """Base of models that embed and pool instances; subclasses define the pooling."""

    def __init__(
        self, task: MILTask, in_features: int, hidden_sizes: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.task: MILTask = task
        self.embed = instance_layers(in_features, hidden_sizes, dropout)
        self.width = [in_features, *hidden_sizes][-1]

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return the output for bags of features."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return the output for bags of embedded instances."""
        raise NotImplementedError

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag``, the loss of the labels: a scalar, or (B,)."""
        return bag_terms(output, bags.labels, self.task, reduction)


class EmbeddingPooling(_PooledModel):
    """Linear classifier of pooled embeddings.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        pool: pool of the embeddings.
        hidden_sizes: widths of the fully connected layers that embed an instance, each followed
            by a ReLU; empty to pool the features directly.
        dropout: dropout probability of the embedding.
        k: k of ``top_k``.
        sharpness: r of ``lse`` and ``lse_sum``.
        first_bias: initial bias of the concept scores of ``noisy_or``, near minus the logarithm of
            the usual number of instances. None for the others.

    Raises:
        ValueError: a width is not positive, an option is missing or of another pool, or a binary
            task has other than two classes.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        pool: PoolName,
        hidden_sizes: Sequence[int] = (512,),
        dropout: float = 0.0,
        k: int | None = None,
        sharpness: float | None = None,
        first_bias: float | None = None,
    ) -> None:
        super().__init__(task, in_features, hidden_sizes, dropout)
        self.pool_values = Pool(pool, k, sharpness)
        self.concepts = nn.Linear(self.width, self.width) if pool == "noisy_or" else None
        _start_bias(self.concepts, first_bias)
        self.classifier = nn.Linear(self.width, num_logits(num_classes, task))

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return logits (B, C) and embeddings (B, E) for bags of embedded instances."""
        values = bags.features if self.concepts is None else self.concepts(bags.features)
        pooled = self.pool_values(values, bags.offsets)
        return MILOutput(logits=self.classifier(pooled), embeddings=pooled)


class InstancePooling(_PooledModel):
    """Linear classifier of instances whose scores are pooled.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        pool: pool of the scores.
        hidden_sizes: widths of the fully connected layers that embed an instance, each followed
            by a ReLU; empty to score the features directly.
        dropout: dropout probability of the embedding.
        k: k of ``top_k``.
        sharpness: r of ``lse`` and ``lse_sum``.
        first_bias: initial bias of the scores, or None for a random one. ``noisy_or`` needs a bias
            near minus the logarithm of the usual number of instances.

    Raises:
        ValueError: a width is not positive, an option is missing or of another pool, a binary
            task has other than two classes, or values are to be pooled by ``noisy_or``.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        pool: PoolName,
        hidden_sizes: Sequence[int] = (512,),
        dropout: float = 0.0,
        k: int | None = None,
        sharpness: float | None = None,
        first_bias: float | None = None,
    ) -> None:
        super().__init__(task, in_features, hidden_sizes, dropout)
        if pool == "noisy_or" and task == "regression":  # A751
            raise ValueError(
                "noisy_or combines probabilities of independent instances, and values of the task "
                "regression are none; use another pool, such as mean"
            )
        self.pool_values = Pool(pool, k, sharpness)
        self.classifier = nn.Linear(self.width, num_logits(num_classes, task))
        _start_bias(self.classifier, first_bias)

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return logits (B, C) and instance logits (N, C) for bags of embedded instances."""
        scores = self.classifier(bags.features)
        return MILOutput(logits=self.pool_values(scores, bags.offsets), instance_logits=scores)


def _start_bias(layer: nn.Linear | None, value: float | None) -> None:
    if value is None:
        return
    if layer is None:
        raise ValueError(f"first_bias is for the pool noisy_or, got {value}")
    nn.init.constant_(layer.bias, value)
