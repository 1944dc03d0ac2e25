"""Additive MIL: attention pooling whose bag logits are sums of instance contributions.

Javed, Juyal, Padigela, Taylor-Weiner, Yu, Prakash, "Additive MIL: Intrinsically Interpretable
Multiple Instance Learning for Pathology", NeurIPS 2022, arXiv 2206.01794. Attention as in ABMIL
(`models.mil.abmil`), but the classifier psi sees each weighted instance rather than their sum:

    logits = sum_n psi(a_n h_n)

so ``instance_logits`` are exactly the contribution of each instance to each logit. In the paper's
sum the bias of psi would count once per instance, and a bag's logit would grow with its size. Here

    contribution_n = psi(a_n h_n) - psi(0) + a_n b,     psi without a last bias

which still adds up exactly to the logits: an instance without attention contributes nothing, and b
counts once, as the attention sums to 1 (A88). With a linear psi this is ABMIL with the classifier
(W, b).

Letters: N instances of B bags, D input width, E embedding width, L attention width, C logits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses.bag_loss import bag_terms
from models.mil.layers.gated_attention import GatedAttention
from models.mil.layers.instance_layers import instance_layers
from models.mil.protocol import LeaveOneOut, Reduction, num_logits, positive_widths
from models.ops.bags.leave_one_out import leave_one_out
from models.ops.bags.ragged import segment_softmax, segment_sum
from models.ops.precision import at_least_float32
from structures import BagBatch, MILOutput, MILTask


class AdditiveMIL(nn.Module):
    """Attention pooling whose logits are sums over instances.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_sizes: widths of the fully connected layers that embed an instance, each followed
            by a ReLU; empty to use the features without embedding.
        dropout: dropout probability of the embedding, before attention and classifier.
        attention_dim: L.
        gated: use the gate of ABMIL's eq. (9).
        classifier_sizes: widths of the hidden layers of psi, each followed by a ReLU; empty for a
            linear psi.

    Raises:
        ValueError: a width is not positive, or a binary task has other than two classes.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_sizes: Sequence[int] = (512,),
        dropout: float = 0.0,
        attention_dim: int = 128,
        gated: bool = False,
        classifier_sizes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.task: MILTask = task
        self.embed = instance_layers(in_features, hidden_sizes, dropout)
        width = [in_features, *hidden_sizes][-1]
        self.attention = GatedAttention(width, attention_dim, gated=gated)
        widths = [width, *classifier_sizes]
        positive_widths(classifier_sizes=widths)
        logits = num_logits(num_classes, task)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.classifier = nn.Linear(widths[-1], logits, bias=False)
        self.bias = nn.Parameter(torch.zeros(logits))

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return logits (B, C), attention (N,), embeddings (B, E), instance logits (N, C)."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return the output for bags of embedded instances."""
        instances = bags.features  # (N, E)
        scores = self.attention(instances)  # (N, 1)
        attention = segment_softmax(scores, bags.offsets)
        weighted = attention * at_least_float32(instances)
        contributions = self._contributions(weighted, attention)
        return MILOutput(
            logits=segment_sum(contributions, bags.offsets),
            attention=attention[:, 0],
            attention_logits=scores[:, 0],
            embeddings=segment_sum(weighted, bags.offsets),
            instance_logits=contributions,
        )

    @property
    def leave_one_out(self) -> LeaveOneOut | None:
        """What each logit loses without each instance, for a linear psi; else None."""
        return None if self.hidden else self._leave_one_out

    def _leave_one_out(self, bags: BagBatch) -> Tensor:
        """Return what each logit of a bag loses without each of its instances, (N, C)."""
        instances = self.embed_bags(bags).features
        values = self.classifier(at_least_float32(instances)).unsqueeze(2)  # (N, C, 1)
        return leave_one_out(values, self.attention(instances), bags.offsets)[:, :, 0]

    def _contributions(self, weighted: Tensor, attention: Tensor) -> Tensor:
        # In a large bag psi(a h) and psi(0) agree to the last digits, and the rounding errors of
        # their differences add up. So each layer propagates the difference of its units to psi(0):
        # relu(c + d) - relu(c) = max(d, -c) + min(c, 0), c the unit before the ReLU at 0.
        difference, at_zero = weighted, torch.zeros_like(weighted[:1])
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            unit = layer(at_zero)  # (1, width)
            difference = torch.maximum(F.linear(difference, layer.weight), -unit)
            difference = difference + unit.clamp(max=0)
            at_zero = unit.relu()
        each: Tensor = self.classifier(difference)
        return each + attention * self.bias

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag``, the loss of the labels: a scalar, or (B,)."""
        return bag_terms(output, bags.labels, self.task, reduction)
