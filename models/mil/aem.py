"""AEM: attention entropy maximisation.

Zhang et al., "AEM: Attention Entropy Maximization for Multiple Instance Learning based Whole Slide
Image Classification", MICCAI 2025, arXiv 2406.15303. Any attention model, with an additional loss
that keeps attention from concentrating on a few instances:

    L = L_bag + lambda_t L_ent,   L_ent = (1/K) sum_k sum_n a_nk log a_nk

the negative entropy of the K maps of a bag: 0 if each map attends to one instance, -log N if all
are uniform. It is not divided by log N, so large bags have larger losses.

The recipe's ``loss_weights`` hold lambda (A383). It is constant, as in the paper's second version,
or decays along half a cosine, as in its third (A111):

    lambda_t = lambda (1 + cos(pi t / T)) / 2

Letters: N instances of B bags, K maps.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from models.losses.bag_classification import mean_over_bags
from models.mil.protocol import (
    LeaveOneOut,
    ModelFactory,
    Reduction,
    ScheduledLosses,
    TwoPartModel,
    UsesTrainingBags,
    leave_one_out_of,
)
from models.ops.bags.ragged import segment_log_softmax, segment_sum
from structures import BagBatch, MILOutput, MILTask


class AEM(nn.Module):
    """Attention model with the negative entropy of its attention as an additional loss.

    The loss terms are those of the attention model and ``entropy``; all outputs are unchanged.

    Args:
        in_features: width of an instance's features.
        num_classes: classes of the task.
        task: what the logits mean.
        learner: makes the attention model; its output must have ``attention_logits``.
        annealing: schedule of the weight of ``entropy`` during training.

    Raises:
        ValueError: the annealing is unknown.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        learner: ModelFactory,
        annealing: Literal["constant", "cosine"] = "cosine",
    ) -> None:
        super().__init__()
        if annealing not in ("constant", "cosine"):
            raise ValueError(f"annealing is 'constant' or 'cosine', got {annealing!r}")
        self.task: MILTask = task
        self.annealing = annealing
        self.learner = learner(in_features, num_classes, task)
        self.permutation_invariant = getattr(self.learner, "permutation_invariant", True)

    def set_training_bags(self, numbers: Tensor, labels: Tensor, sizes: Tensor) -> None:
        """Pass the training bags on to a model that uses them."""
        if isinstance(self.learner, UsesTrainingBags):
            self.learner.set_training_bags(numbers, labels, sizes)

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return the model's output."""
        output: MILOutput = self.learner(bags)
        return output

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with instances embedded by the attention model."""
        return self._in_two_parts().embed_bags(bags)

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return the model's output for bags of embedded instances."""
        return self._in_two_parts().pool(bags)

    @property
    def leave_one_out(self) -> LeaveOneOut | None:
        """That of the attention model."""
        return leave_one_out_of(self.learner)

    def _in_two_parts(self) -> TwoPartModel:
        if not isinstance(self.learner, TwoPartModel):
            raise TypeError(
                f"{type(self.learner).__name__} does not separate embedding and pooling"
            )
        return self.learner

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return the model's losses and ``entropy``: scalars, or (B,).

        Raises:
            TypeError: the model returns no attention logits.
        """
        if output.attention_logits is None:
            name = type(self.learner).__name__
            raise TypeError(f"AEM needs a model with attention logits, {name} returns none")
        losses = negative_entropy(output.attention_logits, bags.offsets)
        entropy = losses if reduction == "none" else mean_over_bags(losses)
        learned: dict[str, Tensor] = self.learner.losses(output, bags, reduction)  # type: ignore[operator]
        return learned | {"entropy": entropy}

    def loss_factors(self, progress: float) -> dict[str, float]:
        """Return the factor of ``entropy`` together with the attention model's own factors."""
        factors = {}
        if isinstance(self.learner, ScheduledLosses):
            factors = self.learner.loss_factors(progress)
        if self.annealing == "constant":
            return factors | {"entropy": 1.0}
        return factors | {"entropy": (1 + math.cos(math.pi * progress)) / 2}


def negative_entropy(attention_logits: Tensor, offsets: Tensor) -> Tensor:
    """Return sum_n a_n log a_n of each bag, averaged over its maps.

    Args:
        attention_logits: (N,) or (N, K) before the softmax, finite.
        offsets: (B + 1,) int64.

    Returns:
        (B,) in [-log N, 0] for bags of N instances.
    """
    logits = attention_logits.view(attention_logits.shape[0], -1)  # (N, K)
    logs = segment_log_softmax(logits, offsets)
    return segment_sum(logs.exp() * logs, offsets).mean(dim=1)
