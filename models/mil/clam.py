"""CLAM: clustering-constrained attention multiple-instance learning.

Lu, Williamson, Chen, Chen, Barbieri, Mahmood, "Data-efficient and weakly supervised computational
pathology on whole-slide images", Nature Biomedical Engineering 2021, arXiv 2004.09666. Gated
attention as in ABMIL, with one map (CLAM-SB) or one per class (CLAM-MB), and a second task on the
instances with the largest and smallest attention:

    h_n  = dropout(relu(W x_n))
    A    = softmax_n( w (tanh(V h_n) * sigmoid(U h_n)) ), with dropout on both factors
    SB:  z = sum_n A_n h_n          l_c = w_c . z + b_c
    MB:  z_c = sum_n A_nc h_n       l_c = w_c . z_c + b_c

C binary classifiers rate single instances. With T_c and F_c the k instances of largest and smallest
attention in the map of class c (the one map for SB), k = min(instances, N), and l the smooth top-1
support-vector loss (`models.losses.smooth_svm`, tau = alpha = 1),

    in_c  = ( sum_{T_c} l(g_c(h), 1) + sum_{F_c} l(g_c(h), 0) ) / 2k
    out_c =   sum_{T_c} l(g_c(h), 0) / k
    instance = sum over classes of the bag of in_c
    instance = ( that + sum over the other classes of out_c ) / C        with ``subtyping``

All classes are treated in the same way, also class 0 of a binary task (the top instances of its
bags are evidence for class 0). A bag of several classes has an in_c for each (A96). In a bag of
fewer than 2 k instances some are in both sets and get both labels (A95). A binary task has two
classes internally; the MB logit is l_1 - l_0, whose sigmoid is the softmax of the two, and the
returned attention is that of class 1 (A143). Grades are classes too; their K - 1 MB logits are the
differences of neighbours, l_(k + 1) - l_k (A747). Where there are no classes, of times and values,
there are no instance classifiers and no term ``instance``, and MB has a map for each logit.

Letters: N instances of B bags, D input width, E embedding width, L attention width, K maps,
C classes, k chosen instances.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.losses.bag_classification import mean_over_bags
from models.losses.bag_loss import bag_terms
from models.losses.smooth_svm import smooth_top1_svm
from models.mil.layers.xavier import xavier_normal
from models.mil.protocol import Reduction, class_targets, num_logits, positive_widths
from models.ops.bags.leave_one_out import leave_one_out
from models.ops.bags.ragged import segment_softmax, segment_weighted_sum
from models.ops.bags.ragged_order import segment_topk
from structures import BagBatch, MILOutput, MILTask
from structures.tasks import has_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class CLAMOutput(MILOutput):
    """Output with the instance classifiers' scores of the chosen instances.

    Attributes:
        first: (B, k, C, 2) scores of the most attended instances, best first, by the classifier
            of each class.
        last: (B, k, C, 2) scores of the least attended instances.
        chosen: (B, k) bool, False where the bag has fewer instances. All three are None where
            there are no classes.
    """

    first: Tensor | None
    last: Tensor | None
    chosen: Tensor | None


class CLAM(nn.Module):
    """Gated attention with a clustering task on the most and least attended instances.

    Args:
        in_features: D.
        num_classes: C, counting the negative class of a binary task.
        task: ``binary`` has one logit, the others one per class.
        multi_branch: one attention map per class (CLAM-MB) instead of one (CLAM-SB).
        hidden_sizes: widths of the fully connected layers that embed an instance, each followed
            by a ReLU and dropout.
        dropout: dropout probability of the embedding.
        attention_dim: L.
        attention_dropout: dropout probability of each factor of the attention.
        instances: largest k, the number of instances chosen at either end.
        subtyping: also train the classifiers of the other classes with the top instances as
            negatives; for mutually exclusive classes.

    Raises:
        ValueError: a width is not positive, or a binary task has other than two classes.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        multi_branch: bool = False,
        hidden_sizes: Sequence[int] = (512,),
        dropout: float = 0.25,
        attention_dim: int = 256,
        attention_dropout: float = 0.25,
        instances: int = 8,
        subtyping: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden_sizes]
        positive_widths(hidden_sizes=widths, attention_dim=attention_dim, instances=instances)
        self.task: MILTask = task
        self.num_classes, self.multi_branch = num_classes, multi_branch
        self.instances, self.subtyping = instances, subtyping
        layers: list[nn.Module] = []
        for width, hidden in itertools.pairwise(widths):
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
        self.embed = nn.Sequential(*layers)
        self.attention_value = nn.Linear(widths[-1], attention_dim)
        self.attention_gate = nn.Linear(widths[-1], attention_dim)
        self.attention_dropout = nn.Dropout(attention_dropout)
        logits = num_logits(num_classes, task)
        maps = num_classes if multi_branch else 1
        self.attention_score = nn.Linear(attention_dim, maps, bias=False)
        self.classifier = nn.Linear(widths[-1], num_classes if multi_branch else logits)
        # Without classes they would get no gradient, for which DDP waits.
        judges = nn.Linear(widths[-1], 2 * num_classes) if has_classes(task) else None
        self.instance_classifiers = judges
        self.dropped_terms = () if has_classes(task) else ("instance",)
        self.apply(xavier_normal)  # A99

    def forward(self, bags: BagBatch) -> CLAMOutput:
        """Return logits (B, C), attention (N,) or (N, C), embeddings (B, E) or (B, C, E)."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> CLAMOutput:
        """Return the output for bags of embedded instances."""
        instances = bags.features  # (N, E)
        scores = self._scores(instances)
        attention = segment_softmax(scores, bags.offsets)
        pooled = segment_weighted_sum(instances, attention, bags.offsets)  # (B, K, E)
        first, last, chosen = self._judged(instances, scores, bags.offsets)
        # One map, that of class 1 of two (A143), or one per class.
        shown = slice(None) if self.multi_branch and self.task != "binary" else -1
        return CLAMOutput(
            logits=self._logits(pooled),
            attention=attention[:, shown],
            attention_logits=scores[:, shown],
            embeddings=pooled if self.multi_branch else pooled[:, 0],
            first=first,
            last=last,
            chosen=chosen,
        )

    def _judged(
        self, instances: Tensor, scores: Tensor, offsets: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the scores of the first and the last instances, and which there are."""
        if self.instance_classifiers is None:
            return None, None, None
        first, chosen = segment_topk(scores, offsets, self.instances)  # (B, k, K)
        last, _ = segment_topk(scores, offsets, self.instances, largest=False)
        judged = self._judge(instances[torch.cat([first, last], dim=1)], self.instance_classifiers)
        return judged[:, : self.instances], judged[:, self.instances :], chosen[:, :, 0]

    def _scores(self, instances: Tensor) -> Tensor:
        """Return the attention of embedded instances before the softmax, (N, K)."""
        value = self.attention_dropout(self.attention_value(instances).tanh())  # (N, L)
        gate = self.attention_dropout(self.attention_gate(instances).sigmoid())
        scores: Tensor = self.attention_score(value * gate)
        return scores

    def leave_one_out(self, bags: BagBatch) -> Tensor:
        """Return what each logit of a bag loses without each of its instances, (N, C)."""
        instances = self.embed_bags(bags).features
        scores, values = self._scores(instances), instances @ self.classifier.weight.T
        if not self.multi_branch:
            return leave_one_out(values.unsqueeze(2), scores, bags.offsets)[:, :, 0]
        classes = leave_one_out(values.unsqueeze(1), scores, bags.offsets)[:, 0]
        return self._of_classes(classes)

    def _logits(self, pooled: Tensor) -> Tensor:
        """Return logits (B, C) or (B, 1) for pooled embeddings (B, K, E)."""
        if not self.multi_branch:
            logits: Tensor = self.classifier(pooled[:, 0])
            return logits
        classes = (pooled * self.classifier.weight).sum(dim=2) + self.classifier.bias  # (B, C)
        return self._of_classes(classes)

    def _of_classes(self, classes: Tensor) -> Tensor:
        """Return the logits for one value a map, (n, C)."""
        two_sided = self.task in ("binary", "ordinal")
        return classes[:, 1:] - classes[:, :-1] if two_sided else classes

    def _judge(self, rows: Tensor, judges: nn.Linear) -> Tensor:
        """Return the instance classifiers' scores (B, n, C, 2) of rows (B, n, K, E)."""
        weight = judges.weight.view(self.num_classes, 2, -1)
        rows = rows.expand(-1, -1, self.num_classes, -1)
        scores = torch.einsum("bnce,cle->bncl", rows, weight)
        return scores + judges.bias.view(self.num_classes, 2)

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag`` and, where there are classes, ``instance``: scalars, or (B,).

        Raises:
            TypeError: the output is not a ``CLAMOutput``.
        """
        if not isinstance(output, CLAMOutput):
            raise TypeError(f"losses of CLAM need a CLAMOutput, got {type(output).__name__}")
        terms = bag_terms(output, bags.labels, self.task, reduction)
        if output.first is None or output.last is None or output.chosen is None:
            return terms
        losses = self._instance_loss(output.first, output.last, output.chosen, bags.labels)
        return terms | {"instance": losses if reduction == "none" else mean_over_bags(losses)}

    def _instance_loss(self, first: Tensor, last: Tensor, chosen: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the instance classifiers for each bag, (B,)."""
        yes, no = labels.new_ones(()), labels.new_zeros(())
        each = smooth_top1_svm(first, yes) + smooth_top1_svm(last, no)  # (B, k, C)
        counts = chosen.unsqueeze(2).to(each.dtype)
        weight = counts / counts.sum(dim=1, keepdim=True)  # (B, k, 1), sums to 1
        inside = (each * weight).sum(dim=1) / 2  # (B, C)
        targets = class_targets(labels, self.num_classes, self.task)
        if not self.subtyping:
            return (targets * inside).sum(dim=1)  # 0 for an unknown grade
        outside = (smooth_top1_svm(first, no) * weight).sum(dim=1)
        losses = (targets * inside + (1 - targets) * outside).mean(dim=1)
        return losses.masked_fill(labels < 0, 0.0) if self.task == "ordinal" else losses
