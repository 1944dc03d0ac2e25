"""Monotone models that respect the standard and the presence assumption by construction.

Under these assumptions (Raff & Holt, "Reproducibility in Multiple Instance Learning: A Case For
Algorithmic Unit Tests", NeurIPS 2023) a bag is classified by the concepts that are present in it,
not by absent ones or by counts. Every score s = G(z) with

    z_k = max_n f_k(x_n),   k = 1..K concepts,   G non-decreasing in every z_k

has these properties and no other form is needed: another instance never lowers s, a copy of an
instance changes nothing, and yet "A and B are present" can be distinguished from "A" and from
"two A". There are two forms of G, each with one logit per class:

    MonotoneMax     G(z) = softplus(C)^T tanh(softplus(A)^T z + b) + c
    MinMaxLattice   G(z) = max_g min_k z_gk         an OR over groups of ANDs over concepts

The lattice follows Sill, "Monotonic Networks", NeurIPS 1998. Softplus keeps weights positive, and
their initial values are small. A multiclass task takes the softmax of the logits (A87): evidence
for one class lowers the probabilities of the others, so only the logits are monotone there.

``instance_logits`` are the logits of a bag of that instance alone; none exceeds its bag's.

Letters: N instances of B bags, D input width, E embedding width, K concepts, G groups, H hidden
units, C logits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses.bag_loss import bag_terms
from models.mil.protocol import Reduction, num_logits, positive_widths
from models.ops.bags.ragged import segment_max
from structures import BagBatch, MILOutput, MILTask

_START = -2.0  # softplus(-2) = 0.13
_SPREAD = 0.1  # makes hidden units differ (A92)


class _MonotoneModel(nn.Module):
    """Base of models that score instances on concepts; subclasses classify the maxima."""

    def __init__(
        self, task: MILTask, widths: Sequence[int], num_concepts: int, dropout: float
    ) -> None:
        super().__init__()
        positive_widths(hidden_sizes=widths, num_concepts=num_concepts)
        self.task: MILTask = task
        layers: list[nn.Module] = []
        for width, hidden in itertools.pairwise(widths):
            layers += [nn.Linear(width, hidden), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
        self.embed = nn.Sequential(*layers)
        self.concepts = nn.Linear(widths[-1], num_concepts)

    def head(self, concepts: Tensor) -> Tensor:
        """Return logits (n, C) for scores of concepts (n, number of concepts)."""
        raise NotImplementedError

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return logits (B, C), embeddings (B, concepts) and instance logits (N, C)."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return the output for bags of embedded instances."""
        scores = self.concepts(bags.features)  # (N, concepts)
        present = segment_max(scores, bags.offsets)  # (B, concepts)
        return MILOutput(
            logits=self.head(present), embeddings=present, instance_logits=self.head(scores)
        )

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag``, the loss of the labels: a scalar, or (B,)."""
        return bag_terms(output, bags.labels, self.task, reduction)


class MonotoneMax(_MonotoneModel):
    """Network with positive weights on the largest score of each concept.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_sizes: widths of the layers that embed an instance, each followed by a leaky ReLU
            and dropout; empty to score the features directly.
        dropout: dropout probability after each of these layers.
        num_concepts: K.
        head_width: H.

    Raises:
        ValueError: a width is not positive, or a binary task has other than two classes.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_sizes: Sequence[int] = (64, 64, 64),
        dropout: float = 0.5,
        num_concepts: int = 16,
        head_width: int = 32,
    ) -> None:
        super().__init__(task, [in_features, *hidden_sizes], num_concepts, dropout)
        positive_widths(head_width=head_width)
        logits = num_logits(num_classes, task)
        self.inner = nn.Parameter(torch.empty(num_concepts, head_width))  # A
        self.inner_bias = nn.Parameter(torch.zeros(head_width))  # b
        self.outer = nn.Parameter(torch.empty(head_width, logits))  # C
        self.bias = nn.Parameter(torch.zeros(logits))  # c
        nn.init.normal_(self.inner, _START, _SPREAD)
        nn.init.normal_(self.outer, _START, _SPREAD)

    def head(self, concepts: Tensor) -> Tensor:
        """Return logits (n, C), non-decreasing in every concept (n, K)."""
        hidden = (concepts @ F.softplus(self.inner) + self.inner_bias).tanh()  # (n, H)
        return hidden @ F.softplus(self.outer) + self.bias


class MinMaxLattice(_MonotoneModel):
    """Lattice that takes the best group of concepts and in it the worst concept.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_sizes: widths of the layers that embed an instance, each followed by a leaky ReLU
            and dropout; empty to score the features directly.
        dropout: dropout probability after each of these layers.
        num_groups: G, groups of every class.
        group_size: concepts of a group.

    Raises:
        ValueError: a width is not positive, or a binary task has other than two classes.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_sizes: Sequence[int] = (64, 64, 64),
        dropout: float = 0.5,
        num_groups: int = 4,
        group_size: int = 4,
    ) -> None:
        positive_widths(num_groups=num_groups, group_size=group_size)
        self.shape = (num_logits(num_classes, task), num_groups, group_size)
        concepts = self.shape[0] * num_groups * group_size
        super().__init__(task, [in_features, *hidden_sizes], concepts, dropout)

    def head(self, concepts: Tensor) -> Tensor:
        """Return logits (n, C), non-decreasing in every concept (n, C G K)."""
        return concepts.view(-1, *self.shape).amin(3).amax(2)
