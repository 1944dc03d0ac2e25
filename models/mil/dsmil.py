"""DSMIL: dual-stream multiple-instance learning.

Li, Li, Eliceiri, "Dual-stream Multiple Instance Learning Network for Whole Slide Image
Classification with Self-supervised Contrastive Learning", CVPR 2021, arXiv 2011.08939. One stream
scores instances and takes the best of each class, the critical instance m_c; the other pools the
bag by the similarity of each instance's query to the query of the critical instance:

    s_n  = W h_n + b                                     (N, C)
    m_c  = argmax_n s_nc        max_c = s_(m_c, c)       instance stream
    A_nc = softmax_n( q(h_n) . q(h_(m_c)) / sqrt(L) )
    z_c  = sum_n A_nc v(h_n)                             bag stream
    l    = W' (z_1 ... z_C) + b'     every class uses the vectors of all classes
    loss = loss_weights.bag L(l, y) + loss_weights.instance L(max, y)

q is Linear(E, L) ReLU Linear(L, L) Tanh, or linear; v is the identity, linear, or linear with ReLU.
No gradient passes through the choice of m_c. The bag is predicted by the bag stream, or by the mean
of the probabilities of both streams (A94).

L(., y) follows the task: one sigmoid (``binary``, as the authors on CAMELYON16), C sigmoids
(``multilabel``, as on TCGA), or softmax (``multiclass``, A93). All classes are treated equally.
Logits that are no classes, such as risks or values, each have a critical instance as well.

A linear v is applied after the pooling: the attention of a bag sums to 1, so that
sum_n A_n (V h_n + b) = V (sum_n A_n h_n) + b, at the cost of one row per bag instead of N.

Letters: N instances of B bags, D input width, E embedding width, L attention width, C logits.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses.bag_classification import mean_over_bags
from models.losses.bag_loss import bag_terms
from models.mil.layers.xavier import xavier_normal
from models.mil.protocol import Reduction, num_logits, positive_widths
from models.ops.bags.mean_probability import logits_of_mean_probability
from models.ops.bags.ragged import segment_ids, segment_softmax, segment_weighted_sum
from models.ops.bags.ragged_order import segment_topk
from models.ops.precision import at_least_float32
from structures import BagBatch, MILOutput, MILTask
from structures.tasks import CLASS_TASKS

Query = Literal["linear", "nonlinear"]
Value = Literal["identity", "linear", "nonlinear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DSMILOutput(MILOutput):
    """Output with the logits of both streams; ``logits`` are the prediction of the bag.

    Attributes:
        bag_logits: (B, C) of the bag stream.
        critical_logits: (B, C) of the instance stream, the largest instance logit of each class.
        critical: (B, C) int64, the rows of the critical instances.
    """

    bag_logits: Tensor
    critical_logits: Tensor
    critical: Tensor

    def supervised(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return the logits of both streams."""
        return {"bag": (self.bag_logits, None), "instance": (self.critical_logits, None)}


class DSMIL(nn.Module):
    """Attention against the best-scoring instance of each class.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_sizes: widths of fully connected layers that embed an instance, each followed by a
            ReLU; empty to use the features without embedding, as the paper does.
        dropout: dropout probability of the embedding, before both streams.
        attention_dim: L.
        query: ``nonlinear`` or ``linear`` q.
        value: ``identity``, ``linear`` or ``nonlinear`` v.
        value_dropout: dropout probability of the input of v.
        average: predict by the mean of both streams' probabilities instead of the bag stream's.
        orthogonal_init: orthogonal weights and zero biases instead of torch's default.
        xavier_init: Glorot's normal distribution and zero biases instead of torch's default, except
            for the classifier of the bag, as in MHIM around DSMIL.
        balance: weight the loss of positive bags by the ratio of negative to positive training
            bags; for ``binary`` and ``multilabel``, without effect for grades and where there are
            no classes (A746).

    Raises:
        ValueError: a width is not positive, a binary task has other than two classes, q or v is
            unknown, ``balance`` is set for a ``multiclass`` task, or both initialisations are set.
    """

    positive_weight: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_sizes: Sequence[int] = (),
        dropout: float = 0.0,
        attention_dim: int = 128,
        query: Query = "nonlinear",
        value: Value = "identity",
        value_dropout: float = 0.0,
        average: bool = False,
        orthogonal_init: bool = True,
        xavier_init: bool = False,
        balance: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden_sizes]
        positive_widths(hidden_sizes=widths, attention_dim=attention_dim)
        for name, chosen, known in (("query", query, Query), ("value", value, Value)):
            if chosen not in get_args(known):
                raise ValueError(f"{name} is one of {get_args(known)}, got {chosen!r}")
        if balance and task == "multiclass":
            raise ValueError("balance: true is for binary and multilabel tasks, got multiclass")
        if orthogonal_init and xavier_init:
            raise ValueError("xavier_init: true needs orthogonal_init: false")
        self.task: MILTask = task
        self.average, self.value = average, value
        self.balance = balance and task in CLASS_TASKS
        layers: list[nn.Module] = []
        for width, hidden in itertools.pairwise(widths):
            layers += [nn.Linear(width, hidden), nn.ReLU()]
        self.embed = nn.Sequential(*layers, nn.Dropout(dropout))
        embedding, classes = widths[-1], num_logits(num_classes, task)
        self.instance_classifier = nn.Linear(embedding, classes)
        first = nn.Linear(embedding, attention_dim)
        deeper = [nn.ReLU(), nn.Linear(attention_dim, attention_dim), nn.Tanh()]
        self.query = nn.Sequential(first, *(deeper if query == "nonlinear" else []))
        self.value_dropout = nn.Dropout(value_dropout)
        self.value_layer = nn.Linear(embedding, embedding) if value != "identity" else None
        self.classifier = nn.Linear(classes * embedding, classes)
        self.register_buffer("positive_weight", torch.ones(classes))
        if orthogonal_init:
            self.apply(_orthogonal)
        elif xavier_init:
            for name, part in self.named_children():
                if name != "classifier":
                    part.apply(xavier_normal)

    def set_training_bags(self, numbers: Tensor, labels: Tensor, sizes: Tensor) -> None:
        """Set the weights of positive bags, negative over positive training bags (C,)."""
        del numbers, sizes
        if self.balance:
            labels = labels.view(labels.shape[0], -1)
            positive, negative = ((labels == label).sum(0).clamp(min=1) for label in (1, 0))
            self.positive_weight.copy_(negative / positive)

    def forward(self, bags: BagBatch) -> DSMILOutput:
        """Return logits (B, C), attention (N,) or (N, C), embeddings (B, E) or (B, C, E)."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> DSMILOutput:
        """Return the output for bags of embedded instances."""
        scores = self.instance_classifier(bags.features)  # (N, C)
        critical = segment_topk(scores, bags.offsets, 1)[0][:, 0]  # (B, C)
        critical_logits = scores.gather(0, critical)
        similarity = _similarity(self.query(bags.features), critical, bags.offsets)  # (N, C)
        attention = segment_softmax(similarity, bags.offsets)
        pooled = self._pooled(bags, attention)  # (B, C, E)
        bag_logits = self.classifier(pooled.flatten(1))
        logits = bag_logits
        if self.average:
            streams = torch.stack([bag_logits, critical_logits], dim=1)
            logits = logits_of_mean_probability(streams, self.task)
        single = scores.shape[1] == 1
        return DSMILOutput(
            logits=logits,
            attention=attention[:, 0] if single else attention,
            attention_logits=similarity[:, 0] if single else similarity,
            embeddings=pooled[:, 0] if single else pooled,
            instance_logits=scores,
            bag_logits=bag_logits,
            critical_logits=critical_logits,
            critical=critical,
        )

    def _pooled(self, bags: BagBatch, attention: Tensor) -> Tensor:
        """Return the weighted sums of values, (B, C, E)."""
        values = self.value_dropout(bags.features)
        if self.value_layer is not None and self.value == "nonlinear":
            values = self.value_layer(values).relu()
        pooled = segment_weighted_sum(values, attention, bags.offsets)
        if self.value_layer is not None and self.value == "linear":
            pooled = self.value_layer(pooled)
        return pooled

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag`` and ``instance``, the losses of the two streams: scalars, or (B,).

        Raises:
            TypeError: the output belongs to another model.
        """
        if not isinstance(output, DSMILOutput):
            raise TypeError(f"losses of DSMIL need a DSMILOutput, got {type(output).__name__}")
        if not self.balance:
            return bag_terms(output, bags.labels, self.task, reduction)
        streams = {n: logits for n, (logits, _) in output.supervised().items()}
        terms = {n: self._balanced(logits, bags.labels) for n, logits in streams.items()}
        return {n: t if reduction == "none" else mean_over_bags(t) for n, t in terms.items()}

    def _balanced(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        targets = labels.view(logits.shape).to(logits.dtype)
        weights = self.positive_weight.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=weights, reduction="none"
        ).mean(dim=1)


def _similarity(queries: Tensor, critical: Tensor, offsets: Tensor) -> Tensor:
    """Return scaled products (N, C) of queries (N, L) with queries of critical rows (B, C)."""
    # One small matrix product of all instances with the critical queries of all bags, of which each
    # row keeps its own bag's, is cheaper than copying the critical queries to every row.
    with torch.autocast(queries.device.type, enabled=False):
        queries = at_least_float32(queries)
        keys = queries[critical].flatten(0, 1)  # (B C, L)
        products = queries @ keys.T / math.sqrt(queries.shape[1])
    if critical.shape[0] == 1:
        return products
    own = segment_ids(offsets, queries.shape[0]).view(-1, 1, 1).expand(-1, 1, critical.shape[1])
    return products.view(-1, *critical.shape).gather(1, own)[:, 0]


def _orthogonal(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight)
        nn.init.zeros_(module.bias)
