"""mi-Net and MI-Net, with deep supervision (DS) and residual connections (RC).

Wang, Yan, Tang, Bai, Liu, "Revisiting multiple instance neural networks", Pattern Recognition 2018,
arXiv 1610.02501. Networks for the classic data sets: three fully connected layers h_1, h_2, h_3
with ReLU, trained from bag labels alone; M pools over the instances of a bag (max, mean or LSE):

    mi-Net      logits = M( W h_3 + b )
    MI-Net      logits = W M(h_3) + b
    MI-Net DS   logits_l = W_l M(h_l) + b_l;  trained by the mean of the three losses, predicts by
                the mean of the three probabilities
    MI-Net RC   X_l = M(h_l) + X_(l-1), X_0 = 0;  logits = W X_3 + b;  equal widths

Dropout is applied to the pooled values, not to the input of the next layer (A90). Weights are
initialised as by the authors, uniformly in +-sqrt(6 / (fan in + fan out)), biases with 0. Their L2
penalty corresponds to a ``weight_decay`` of twice its factor (A91).

Letters: N instances of B bags, D input width, E embedding width, K layers, C logits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.losses.bag_loss import bag_terms
from models.mil.pooling import EmbeddingPooling, InstancePooling, Pool
from models.mil.protocol import Reduction, num_logits, positive_widths
from models.ops.bags.mean_probability import logits_of_mean_probability
from structures import BagBatch, MILOutput, MILTask

MINetPool = Literal["max", "mean", "lse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersOutput(MILOutput):
    """Output of a network with one classifier per layer.

    Attributes:
        layer_logits: (B, K, C) logits of each layer's own classifier.
    """

    layer_logits: Tensor

    def supervised(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return the logits of all layers."""
        return {"bag": (self.layer_logits, None)}


class InstanceMINet(InstancePooling):
    """mi-Net, which pools scores of instances.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_sizes: widths of the layers.
        dropout: dropout probability of the last layer.
        pool: M, over the scores.
        sharpness: r of ``lse``.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_sizes: Sequence[int] = (256, 128, 64),
        dropout: float = 0.5,
        pool: MINetPool = "max",
        sharpness: float | None = None,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            task,
            pool=pool,
            hidden_sizes=hidden_sizes,
            dropout=dropout,
            sharpness=sharpness,
        )
        _start_as_authors(self)


class MINet(EmbeddingPooling):
    """MI-Net, which classifies pooled embeddings.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_sizes: widths of the layers.
        dropout: dropout probability of the last layer.
        pool: M, over the embeddings.
        sharpness: r of ``lse``.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_sizes: Sequence[int] = (256, 128, 64),
        dropout: float = 0.5,
        pool: MINetPool = "max",
        sharpness: float | None = None,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            task,
            pool=pool,
            hidden_sizes=hidden_sizes,
            dropout=dropout,
            sharpness=sharpness,
        )
        _start_as_authors(self)


class _AllLayers(nn.Module):
    """Base of networks that embed an instance by the concatenated outputs of all layers."""

    def __init__(self, task: MILTask, widths: Sequence[int], dropout: float, pool: Pool) -> None:
        super().__init__()
        positive_widths(widths=widths, num_layers=len(widths) - 1)
        self.task: MILTask = task
        self.widths = list(widths[1:])
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.pool_values = pool

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return logits (B, C) and embeddings of the bags."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with the concatenated layers of each instance, (N, sum of widths)."""
        values, layers = bags.features, []
        for layer in self.layers:
            values = layer(values).relu()
            layers.append(values)
        return dataclasses.replace(bags, features=self.dropout(torch.cat(layers, 1)))

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return the output for bags of embedded instances."""
        raise NotImplementedError

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag``, the loss of the labels: a scalar, or (B,)."""
        return bag_terms(output, bags.labels, self.task, reduction)


class MINetDS(_AllLayers):
    """MI-Net with deep supervision, one bag classifier per layer.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_sizes: widths of the layers.
        dropout: dropout probability of the pooled values.
        pool: M.
        sharpness: r of ``lse``.

    Raises:
        ValueError: a width is not positive, or a binary task has other than two classes.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_sizes: Sequence[int] = (256, 128, 64),
        dropout: float = 0.5,
        pool: MINetPool = "max",
        sharpness: float | None = None,
    ) -> None:
        values = Pool(pool, sharpness=sharpness)
        super().__init__(task, [in_features, *hidden_sizes], dropout, values)
        logits = num_logits(num_classes, task)
        self.classifiers = nn.ModuleList(nn.Linear(width, logits) for width in hidden_sizes)
        _start_as_authors(self)

    def pool(self, bags: BagBatch) -> LayersOutput:
        """Return logits of the mean prediction, and each layer's logits."""
        pooled = self.pool_values(bags.features, bags.offsets)  # (B, sum of widths)
        parts = zip(self.classifiers, torch.split(pooled, self.widths, dim=1), strict=True)
        logits = torch.stack([classifier(part) for classifier, part in parts], dim=1)
        return LayersOutput(
            logits=logits_of_mean_probability(logits, self.task),
            embeddings=pooled,
            layer_logits=logits,
        )

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag``, the mean over the layers of the loss of the labels: a scalar, or (B,).

        Raises:
            TypeError: the output belongs to another model.
        """
        if not isinstance(output, LayersOutput):
            raise TypeError(f"losses of MINetDS need a LayersOutput, got {type(output).__name__}")
        return bag_terms(output, bags.labels, self.task, reduction)


class MINetRC(_AllLayers):
    """MI-Net with residual connections between the pooled outputs of its layers.

    Args:
        in_features: D.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        width: width of every layer.
        num_layers: K.
        dropout: dropout probability of the pooled values.
        pool: M.
        sharpness: r of ``lse``.

    Raises:
        ValueError: a width is not positive, or a binary task has other than two classes.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        width: int = 128,
        num_layers: int = 3,
        dropout: float = 0.5,
        pool: MINetPool = "max",
        sharpness: float | None = None,
    ) -> None:
        values = Pool(pool, sharpness=sharpness)
        super().__init__(task, [in_features, *[width] * num_layers], dropout, values)
        self.classifier = nn.Linear(width, num_logits(num_classes, task))
        _start_as_authors(self)

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return logits (B, C) and embeddings (B, E) for bags of embedded instances."""
        pooled = self.pool_values(bags.features, bags.offsets)  # (B, K E)
        residual = pooled.view(-1, len(self.widths), self.widths[0]).sum(1)
        return MILOutput(logits=self.classifier(residual), embeddings=residual)


def _start_as_authors(model: nn.Module) -> None:
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
