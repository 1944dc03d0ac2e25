"""DTFD-MIL: double-tier feature distillation.

Zhang et al., "DTFD-MIL: Double-Tier Feature Distillation Multiple Instance Learning for
Histopathology Whole Slide Image Classification", CVPR 2022, arXiv 2203.12081. A bag is split at
random into pseudo-bags that inherit its label, which increases the number of bags. Tier 1 is
attention pooling on each pseudo-bag; a few features are distilled from each, and tier 2 is
attention pooling on the distilled features of a bag:

    h_n   = relu(P x_n)
    s_n   = w^T (tanh(V h_n) * sigmoid(U h_n)),  a_n = softmax of s_n over its pseudo-bag
    z_g   = sum_{n in g} a_n h_n,                l_g = W z_g + b                         tier 1
    L_nc  = w_c^T (a_n h_n)     contribution of instance n to logit c: Grad-CAM of this pooling
    bag   = W' sum_j a'_j d_j + b', with a'_j from a separate attention                  tier 2

Features d_j distilled from a pseudo-bag: ``afs`` its pooled z_g; ``maxs`` the h_n of the k largest
L_nc; ``maxmins`` the h_n of the k largest and the k smallest L_nc; ``mas`` the h_n of the k
largest a_n.

Losses: ``pseudo_bag``, the mean over a bag's pseudo-bags, trains tier 1 and P; ``bag`` trains
tier 2 alone, since the inputs of tier 2 are detached. One optimizer thus equals the authors' two.

The split is a function of (key, bag, instance); a bag of fewer instances than groups has one
pseudo-bag per instance (A106). Evaluation averages probabilities over splits under constant keys
(A107). The logit by which instances are ranked is described in A109.

Letters: N instances of B bags, G groups, R splits, k kept, E embedding width, C logits, M distilled
features of a bag.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses.bag_loss import bag_terms
from models.mil.layers.gated_attention import GatedAttention
from models.mil.protocol import Reduction, num_logits, positive_widths, target_evidence
from models.ops.bags.keyed_random import draw_key, random_order
from models.ops.bags.mean_probability import logits_of_mean_probability
from models.ops.bags.ragged import segment_ids, segment_softmax, segment_sum, segment_weighted_sum
from models.ops.bags.ragged_order import segment_rank, segment_topk
from models.ops.precision import as_float64, at_least_float32
from structures import BagBatch, MILOutput, MILTask
from structures.tasks import CLASS_TASKS

Distillation = Literal["afs", "maxs", "maxmins", "mas"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DTFDOutput(MILOutput):
    """Output with the logits of the pseudo-bags.

    Attributes:
        pseudo_logits: (B, R, G, C).
        pseudo_bags: (B, R, G) bool, False where a bag has too few instances for the group.
    """

    pseudo_logits: Tensor
    pseudo_bags: Tensor

    def supervised(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return the bag's logits and those of its pseudo-bags."""
        pseudo = self.pseudo_logits.flatten(1, 2), self.pseudo_bags.flatten(1)
        return {"bag": (self.logits, None), "pseudo_bag": pseudo}


class DTFD(nn.Module):
    """Attention pooling on random pseudo-bags and then on the features distilled from them.

    ``attention`` is the attention of tier 1 in the undivided bag, which orders the instances of a
    pseudo-bag as a_n does (A108); ``instance_logits`` are the L_nc and ``embeddings`` the inputs of
    the classifier of tier 2, both averaged over the splits.

    Args:
        in_features: width of an instance's features.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        hidden_size: E.
        attention_dim: width of both attentions.
        gated: gate both attentions.
        num_groups: G, pseudo-bags of a bag.
        distill: features distilled for tier 2.
        kept: k, ignored for ``afs``.
        inference_rounds: R in evaluation; in training there is one new split per step.

    Raises:
        ValueError: a number is not positive, or the distillation unknown.
    """

    # The instances of a pseudo-bag depend on their indices.
    permutation_invariant = False

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_size: int = 512,
        attention_dim: int = 128,
        gated: bool = True,
        num_groups: int = 4,
        distill: Distillation = "afs",
        kept: int = 1,
        inference_rounds: int = 5,
    ) -> None:
        super().__init__()
        positive_widths(
            in_features=in_features,
            hidden_size=hidden_size,
            num_groups=num_groups,
            kept=kept,
            inference_rounds=inference_rounds,
        )
        if distill not in get_args(Distillation):
            raise ValueError(f"distill is one of {get_args(Distillation)}, got {distill!r}")
        self.task: MILTask = task
        self.num_groups, self.distill, self.kept = num_groups, distill, kept
        self.inference_rounds = inference_rounds
        logits = num_logits(num_classes, task)
        self.embed = nn.Sequential(nn.Linear(in_features, hidden_size, bias=False), nn.ReLU())
        self.attention = GatedAttention(hidden_size, attention_dim, gated=gated)
        self.classifier = nn.Linear(hidden_size, logits)
        self.second_attention = GatedAttention(hidden_size, attention_dim, gated=gated)
        self.second_classifier = nn.Linear(hidden_size, logits)

    def forward(self, bags: BagBatch) -> DTFDOutput:
        """Return logits (B, C), attention (N,), and the logits of the pseudo-bags."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> DTFDOutput:
        """Return the output for bags of embedded instances."""
        key, rounds = (draw_key(), 1) if self.training else (0, self.inference_rounds)
        scores = at_least_float32(self.attention(bags.features)[:, 0])  # (N,)
        groups = torch.arange(self.num_groups, device=scores.device)
        present = groups < bags.sizes().unsqueeze(1)  # (B, G)
        dealt = (pseudo_bag_of_each(bags, self.num_groups, key, r) for r in range(rounds))
        seen = [self._split(bags, scores, present, of_each) for of_each in dealt]
        pseudo_logits, instance_logits, embeddings = (
            torch.stack(parts, dim=1) for parts in zip(*seen, strict=True)
        )
        return DTFDOutput(
            logits=logits_of_mean_probability(self.second_classifier(embeddings), self.task),
            attention=segment_softmax(scores, bags.offsets),
            attention_logits=scores,
            embeddings=embeddings.mean(dim=1),
            instance_logits=instance_logits.mean(dim=1),
            pseudo_logits=pseudo_logits,
            pseudo_bags=present.unsqueeze(1).expand(-1, rounds, -1),
        )

    def _split(
        self, bags: BagBatch, scores: Tensor, present: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return l_g (B, G, C), L_nc (N, C) and the input of tier 2 (B, E) for groups (N,)."""
        instances = bags.features
        member = groups.unsqueeze(1) == torch.arange(self.num_groups, device=groups.device)
        # Finite outside the own group, so that the unused weights of an empty group are no NaN.
        own = scores.unsqueeze(1).masked_fill(~member, torch.finfo(scores.dtype).min)
        attention = segment_softmax(own, bags.offsets)  # (N, G), zero outside the own group
        pooled = segment_weighted_sum(instances, attention, bags.offsets)  # (B, G, E)
        logits = self.classifier(pooled)
        with torch.no_grad():
            weights = attention.gather(1, groups.unsqueeze(1))  # (N, 1)
            added = weights * F.linear(instances, self.classifier.weight)  # (N, C)
            if self.distill == "afs":
                features, valid = pooled, present
            else:
                favoured = logits.argmax(dim=2)[segment_ids(bags.offsets, len(groups)), groups]
                by_class = evidence(added, favoured, self.task)
                values = weights[:, 0] if self.distill == "mas" else by_class
                rows, valid = self._chosen(values, member, bags.offsets)
                features = instances[rows]  # (B, M, E)
        return logits, added, self._second_pool(features.detach(), valid)

    def _chosen(self, values: Tensor, member: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (B, M) of the distilled instances and a mask (B, M) of the valid ones."""
        counts = segment_sum(member.float(), offsets).unsqueeze(1)  # (B, 1, G)
        places = torch.arange(self.kept, device=member.device).view(1, -1, 1)
        own, member = values.unsqueeze(1), member.to(values.device)
        rows, _ = segment_topk(own.masked_fill(~member, -torch.inf), offsets, self.kept)
        valid = places < counts  # (B, k, G)
        if self.distill == "maxmins":
            low = own.masked_fill(~member, torch.inf)
            lowest, _ = segment_topk(low, offsets, self.kept, largest=False)
            # An instance that is among the largest is not distilled twice.
            valid = torch.cat([valid, places < counts - self.kept], dim=1)
            rows = torch.cat([rows, lowest], dim=1)
        return rows.flatten(1), valid.flatten(1)

    def _second_pool(self, features: Tensor, valid: Tensor) -> Tensor:
        """Pool the distilled features (B, M, E) of each bag by tier 2's attention, (B, E)."""
        scores = at_least_float32(self.second_attention(features)[..., 0])
        weights = scores.masked_fill(~valid, -torch.inf).softmax(dim=1)  # (B, M)
        return (weights.unsqueeze(2) * features).sum(dim=1)

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag`` and ``pseudo_bag``: scalars, or (B,).

        Raises:
            TypeError: the output belongs to another model.
        """
        if not isinstance(output, DTFDOutput):
            raise TypeError(f"DTFD's losses need a DTFDOutput, got {type(output).__name__}")
        return bag_terms(output, bags.labels, self.task, reduction)


def pseudo_bag_of_each(bags: BagBatch, num_groups: int, key: int, stream: int = 0) -> Tensor:
    """Assign the instances of each bag to random groups, (N,) int64 in [0, num_groups).

    Sizes of a bag's pseudo-bags differ by at most one; the first ones are larger, so that only the
    last ones can be empty.
    """
    return segment_rank(random_order(bags, key, stream), bags.offsets) % num_groups


def evidence(added: Tensor, favoured: Tensor, task: MILTask) -> Tensor:
    """Return values that rank instances by their Grad-CAM probability of one class, (N,).

    The class is 1 for a binary task, otherwise the one favoured by the pseudo-bag's own logits.
    Without classes and for grades, see `target_evidence`.

    Args:
        added: L_nc, (N, C).
        favoured: (N,), the favoured class of each instance's pseudo-bag.
        task: what the logits mean.
    """
    if task not in CLASS_TASKS:
        return target_evidence(added, task)
    if task == "multiclass":
        # The contribution of one of ten thousand instances is too small for float32 next to log C.
        added = as_float64(added).log_softmax(dim=1)
    return added.gather(1, favoured.unsqueeze(1).to(added.device))[:, 0]
