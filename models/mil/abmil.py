"""ABMIL: attention-based deep multiple-instance learning.

Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018,
arXiv 1802.04712. A bag is represented by a weighted mean of its instances' embeddings h_k; the
weights come from a small network that sees one instance at a time:

    z   = sum_k a_k h_k                                       eq. (7)
    a_k = softmax_k( w^T tanh(V h_k) )                        plain, eq. (8)
    a_k = softmax_k( w^T (tanh(V h_k) * sigmoid(U h_k)) )     gated, eq. (9)
    p   = sigmoid(c^T z + b)

Bags are packed without padding: softmax and sum run over segments, so a batch of B bags gives the
same result as B single bags. K attention branches pool K times and the classifier sees the
concatenation of the K pooled vectors. V and U have a bias, as in the authors' code; w has none,
because it would cancel in the softmax.

Letters: N instances of B bags, D input width, E embedding width, L attention width, K branches,
C logits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from models.losses.bag_loss import bag_terms
from models.mil.layers.inner_width import inner_width
from models.mil.layers.xavier import xavier_normal
from models.mil.protocol import Reduction, class_probability, num_logits, positive_widths
from models.ops.bags.leave_one_out import leave_one_out
from models.ops.bags.ragged import segment_softmax, segment_weighted_sum
from structures import BagBatch, MILOutput, MILTask


class ABMIL(nn.Module):
    """Attention pooling over the instances of a bag, plain or gated.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_sizes: widths of the fully connected layers that embed an instance, each followed
            by ``activation``; empty to pool the features directly; None for one layer of the
            width that the authors of AEM use, see `inner_width`.
        dropout: dropout probability of the embedding, before attention and pooling.
        input_dropout: dropout probability of the input of the fully connected layers.
        attention_dim: L.
        gated: use the gate of eq. (9).
        branches: K.
        encoder: network before the fully connected layers, for instances that are images; its
            ``out_features`` replaces D.
        activation: activation after each fully connected layer that embeds an instance.
        attention_activation: activation that replaces tanh.
        attention_bias: give V and U a bias.
        embedding_bias: give the layers that embed an instance a bias.
        xavier_init: initialise all linear layers with Glorot's normal distribution and zero
            biases, as MHIM and related methods do, instead of torch's default.

    Raises:
        ValueError: a width is not positive, or a binary task has other than two classes.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_sizes: Sequence[int] | None = (512,),
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        attention_dim: int = 128,
        gated: bool = False,
        branches: int = 1,
        encoder: nn.Module | None = None,
        activation: Literal["relu", "gelu"] = "relu",
        attention_activation: Literal["tanh", "relu"] = "tanh",
        attention_bias: bool = True,
        embedding_bias: bool = True,
        xavier_init: bool = False,
    ) -> None:
        super().__init__()
        first = in_features if encoder is None else int(encoder.out_features)  # type: ignore[arg-type]
        widths = [first, *([inner_width(first)] if hidden_sizes is None else hidden_sizes)]
        positive_widths(hidden_sizes=widths, attention_dim=attention_dim, branches=branches)
        self.task: MILTask = task
        layers: list[nn.Module] = [] if encoder is None else [encoder]
        layers.append(nn.Dropout(input_dropout))
        for width, hidden in itertools.pairwise(widths):
            layers.append(nn.Linear(width, hidden, bias=embedding_bias))
            layers.append(nn.ReLU() if activation == "relu" else nn.GELU())
        self.embed = nn.Sequential(*layers, nn.Dropout(dropout))
        self.attention_activation = attention_activation
        self.attention_value = nn.Linear(widths[-1], attention_dim, bias=attention_bias)
        gate = nn.Linear(widths[-1], attention_dim, bias=attention_bias) if gated else None
        self.attention_gate = gate
        self.attention_score = nn.Linear(attention_dim, branches, bias=False)
        self.classifier = nn.Linear(widths[-1] * branches, num_logits(num_classes, task))
        if xavier_init:
            self.apply(xavier_normal)

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return logits (B, C), attention (N,) or (N, K) and embeddings (B, E K)."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return the output for bags of embedded instances."""
        instances = bags.features  # (N, E)
        value = self.attention_value(instances)  # (N, L)
        hidden = value.tanh() if self.attention_activation == "tanh" else value.relu()
        if self.attention_gate is not None:
            hidden = hidden * self.attention_gate(instances).sigmoid()
        scores = self.attention_score(hidden)  # (N, K)
        attention = segment_softmax(scores, bags.offsets)
        pooled = segment_weighted_sum(instances, attention, bags.offsets).flatten(1)  # (B, K E)
        one_branch = attention.shape[1] == 1
        return MILOutput(
            logits=self.classifier(pooled),
            attention=attention[:, 0] if one_branch else attention,
            attention_logits=scores[:, 0] if one_branch else scores,
            embeddings=pooled,
        )

    def instance_contributions(self, bags: BagBatch, output: MILOutput) -> Tensor:
        """Return the contribution of each instance to the logits, sum_k W_k (a_nk h_n): (N, C).

        Args:
            bags: bags of embedded instances.
            output: output of ``pool`` for these bags.
        """
        assert output.attention is not None
        attention = output.attention.view(bags.features.shape[0], 1, -1)  # (N, 1, K)
        return (self._by_branch(bags.features) * attention).sum(dim=2)

    def _by_branch(self, instances: Tensor) -> Tensor:
        """Return W_k h_n for embedded instances, (N, C, K)."""
        classes, branches = self.classifier.out_features, self.attention_score.out_features
        weights = self.classifier.weight.view(classes * branches, -1)  # (C K, E)
        return (instances @ weights.T).view(-1, classes, branches)

    def leave_one_out(self, bags: BagBatch) -> Tensor:
        """Return what each logit of a bag loses without each of its instances, (N, C)."""
        embedded = self.embed_bags(bags)
        scores = self.pool(embedded).attention_logits
        assert scores is not None
        values = self._by_branch(embedded.features)  # (N, C, K)
        return leave_one_out(values, scores.view(len(values), -1), bags.offsets).sum(dim=2)

    def class_scores(self, bags: BagBatch, output: MILOutput) -> Tensor:
        """Return the probability of the class favoured by each instance's contribution, (N,)."""
        return class_probability(self.instance_contributions(bags, output), self.task)

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag``, the loss of the labels: a scalar, or (B,)."""
        return bag_terms(output, bags.labels, self.task, reduction)
