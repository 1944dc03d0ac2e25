"""INS: instance-level supervision by contrastive learning and prototypes.

Qu et al., "Rethinking multiple instance learning for whole slide image classification: a good
instance classifier is all you need", IEEE TCSVT 2024, arXiv 2307.02249. An instance of a negative
bag is negative; one of a positive bag may be either. This is learning with candidate labels, which
INS solves for bags by instance contrast and prototypes, as PiCO (Wang et al., ICLR 2022) does for
images. Here the instances are frozen features, and their two views differ by dropped entries
(A131).

    Y_i  = {0} in a negative bag, {0, c} in a bag of class c
    z_i  = argmax over Y_i of the classifier's p_i                        pseudo label (A137)
    mu_c = normalise(m mu_c + (1 - m) q_i)    for each q_i with z_i = c   prototypes
    s_i  = phi s_i + (1 - phi) onehot(argmax over Y_i of q_i . mu_c)      pseudo target
    L_instance = - sum_c s_ic log p_ic
    L_contrast = - mean_{a in P(i)} log( exp(q_i . a / tau) / sum_{b in A(i)} exp(q_i . b / tau) )

q and k are unit projections by the network and by its momentum copy. A(i) is all q but q_i, all k,
and a queue of earlier k; P(i) is the subset of A(i) with the pseudo label of q_i.

In the warm-up, instances of positive bags alone are used, without pseudo labels: P(i) = {k_i} and
A(i) adds only the queue (InfoNCE), and s keeps its initial uniform distribution over Y_i. A linear
head on the mean embedding of each bag of both classes is also trained (L_pooled, one softmax, where
the authors' code takes two; A373). Labels of instances are never used (A372).

A batch may have whole bags or chunks of them; what is said of bags is then true of chunks (A370).

A bag's score is the mean, the largest or the LSE of its instances' probabilities (A136).
Evaluation uses only the embedding, the classifier and this score.

Letters: N instances of B bags, D input width, E embedding width, P projection width, C classes,
Q queue length, S instances of a step in the contrastive loss.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.losses.bag_classification import mean_over_bags
from models.losses.bag_loss import bag_loss, bag_terms
from models.mil.ins.memory import INSMemory, candidate_classes, products, unit
from models.mil.protocol import Reduction, num_logits, positive_widths
from models.ops.bags.gather_rows import gather_rows
from models.ops.bags.keyed_random import draw_key, random_order
from models.ops.bags.ragged import (
    segment_ids,
    segment_logsumexp,
    segment_max,
    segment_mean,
    segment_softmax,
)
from models.ops.bags.ragged_order import segment_rank
from models.ops.distributed import global_mean_count
from models.ops.precision import at_least_float32
from structures import BagBatch, MILOutput, MILTask
from structures.tasks import CLASS_TASKS

Pooling = Literal["mean", "max", "lse"]


class INS(nn.Module):
    """Instance classifier that learns from candidate labels and scores bags by their instances.

    `losses` evaluates the scores of bags; INS is trained on `training_losses`, for which
    `lightning_modules.ins.INSModule` keeps the memory.

    Args:
        in_features: D.
        num_classes: C; class 0 is the negative one, also of a multiclass task (A132).
        task: ``binary`` or ``multiclass``.
        hidden_sizes: widths of the fully connected layers that embed an instance, each followed by
            a ReLU.
        dropout: dropout probability of the embedding.
        view_dropout: dropout probability of a feature, drawn for each of the two views.
        projection_dim: P.
        queue_size: Q.
        key_momentum: momentum of the second network, the fraction kept in each step.
        prototype_momentum: m.
        target_momentum: phi at the beginning and at the end of training.
        temperature: tau.
        warmup: fraction of the training steps before pseudo labels are used.
        least_positives: number of most likely instances of a positive bag that always get the
            bag's class as pseudo label. 0 for the authors' rule (A137).
        max_anchors: largest number of instances of a bag that a step uses for contrastive loss,
            prototypes and queue, chosen at random; bounds the memory (A134).
        pooling: pooling of the instances' probabilities to the score of a bag.
        sharpness: r of ``lse``, (1/r) log mean exp(r p): the mean for r -> 0, the maximum for
            large r.

    Raises:
        ValueError: a number is out of range, or the task is neither binary nor multiclass.
    """

    # The loss compares instances of a batch with one another.
    joint_terms = ("contrast",)

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        hidden_sizes: Sequence[int] = (512,),
        dropout: float = 0.0,
        view_dropout: float = 0.1,
        projection_dim: int = 128,
        queue_size: int = 8192,
        key_momentum: float = 0.999,
        prototype_momentum: float = 0.9,
        target_momentum: tuple[float, float] = (0.95, 0.8),
        temperature: float = 0.07,
        warmup: float = 0.025,
        least_positives: int = 1,
        max_anchors: int = 256,
        pooling: Pooling = "max",
        sharpness: float = 10.0,
    ) -> None:
        super().__init__()
        _check_task(num_classes, task)
        widths = [in_features, *hidden_sizes]
        positive_widths(
            hidden_sizes=widths,
            projection_dim=projection_dim,
            queue_size=queue_size,
            max_anchors=max_anchors,
        )
        _check_shares(
            key_momentum=key_momentum,
            prototype_momentum=prototype_momentum,
            target_momentum=target_momentum,
            warmup=warmup,
        )
        if temperature <= 0 or not 0 < sharpness <= 80 or least_positives < 0:
            raise ValueError(
                "need temperature > 0, 0 < sharpness <= 80 and least_positives >= 0, got "
                f"{temperature}, {sharpness} and {least_positives}"
            )
        self.task: MILTask = task
        self.num_classes = num_classes
        self.projection_dim, self.queue_size = projection_dim, queue_size
        self.key_momentum, self.prototype_momentum = key_momentum, prototype_momentum
        self.target_momentum, self.temperature = target_momentum, temperature
        self.warmup, self.max_anchors, self.least_positives = warmup, max_anchors, least_positives
        self.pooling: Pooling = pooling
        self.sharpness = sharpness
        pairs = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
        self.view = nn.Dropout(view_dropout)
        self.embed = nn.Sequential(*itertools.chain(*pairs), nn.Dropout(dropout))
        embedding = widths[-1]
        self.classifier = nn.Linear(embedding, num_classes)
        self.pooled_head = nn.Linear(embedding, num_classes)
        self.project = nn.Sequential(
            nn.Linear(embedding, embedding), nn.ReLU(), nn.Linear(embedding, projection_dim)
        )
        self.key_embed = copy.deepcopy(self.embed).requires_grad_(False)
        self.key_project = copy.deepcopy(self.project).requires_grad_(False)

    def new_memory(self) -> INSMemory:
        """Return an empty memory for the training of this network."""
        return INSMemory(self.num_classes, self.projection_dim, self.queue_size)

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return logits (B, C), each instance's fraction of the bag's positives and embeddings."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return the output for bags of embedded instances."""
        logits = at_least_float32(self.classifier(bags.features))  # (N, C)
        log_probs = logits.log_softmax(dim=1)
        positive = log_probs[:, 1:].logsumexp(dim=1)
        return MILOutput(
            logits=self.bag_logits(log_probs, bags.offsets),
            # softmax(log p) = p / sum p: the fraction of the bag's positive probability
            attention=segment_softmax(positive, bags.offsets),
            attention_logits=positive,
            embeddings=segment_mean(bags.features, bags.offsets),
            instance_logits=logits.diff(dim=1) if self.task == "binary" else logits,
        )

    def bag_logits(self, log_probs: Tensor, offsets: Tensor) -> Tensor:
        """Return the logits of the bags, (B, 1) or (B, C), from (N, C) log-probabilities.

        Class c has the score pool_n p_nc, and the negative class 1 - pool_n (1 - p_n0), which for
        two classes is the complement of the positive class. Computed without forming 1 - p.
        """
        sign = torch.ones_like(log_probs[0])
        sign[0] = -1
        if self.pooling == "mean":
            sizes = offsets.diff().to(log_probs).unsqueeze(1)
            scores = segment_logsumexp(log_probs, offsets) - sizes.log()
        elif self.pooling == "max":
            scores = sign * segment_max(sign * log_probs, offsets)
        else:
            steep = sign * self.sharpness
            means = segment_mean((steep * log_probs.exp()).expm1(), offsets)
            least = torch.finfo(means.dtype).tiny  # for probabilities that underflow
            scores = (means.log1p() / steep).clamp(min=least).log()
        return scores.diff(dim=1) if self.task == "binary" else scores

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag``, the negative log-likelihood of the labels: a scalar, or (B,)."""
        return bag_terms(output, bags.labels, self.task, reduction)

    def training_losses(
        self, bags: BagBatch, progress: float, memory: INSMemory
    ) -> dict[str, Tensor]:
        """Return the terms of a training step and update the memory.

        Args:
            bags: training bags, whole or in part.
            progress: fraction of the training that is done.
            memory: memory that knows the training bags.

        Returns:
            ``instance``, ``contrast``, ``pooled`` for the warm-up, and ``bag``, the term of
            `losses`, for monitoring only.
        """
        warm, offsets = progress < self.warmup, bags.offsets
        learnt = (bags.labels > 0) | (not warm)  # (B,), bags whose instances are trained on
        embedded = self.embed(self.view(bags.features))  # (N, E)
        log_probs = at_least_float32(self.classifier(embedded)).log_softmax(dim=1)
        queries = unit(self.project(embedded))  # (N, P)
        rows, ids = memory.rows(bags), segment_ids(offsets, bags.features.shape[0])
        bag_labels = bags.labels[ids]
        candidates = candidate_classes(bag_labels, self.num_classes)
        if not warm:
            scores = products(queries.detach(), memory.prototypes)
            start, end = self.target_momentum
            phi = start + (end - start) * progress
            memory.update_targets(rows, _best(scores, candidates), bag_labels == 0, phi)
        labels, sure = self._pseudo_labels(log_probs.detach(), candidates, bags)
        key = draw_key()
        names = torch.stack([rows, labels, random_order(bags, key, stream=1)], dim=1)
        chosen = self._chosen(bags, sure, key, learnt[ids])
        contrast = self._contrast(
            bags.features[chosen], queries[chosen], names[chosen], memory, warm
        )
        instance = segment_mean(-(memory.targets[rows] * log_probs).sum(dim=1), offsets)
        bag = bag_loss(self.bag_logits(log_probs, offsets), bags.labels, self.task)
        pooled = self.pooled_head(segment_mean(embedded, offsets))
        pooled = bag_loss(pooled, bags.labels, "multiclass")
        return {
            "bag": mean_over_bags(bag),
            "instance": (instance * learnt).sum() / global_mean_count(learnt.sum(), instance.dtype),
            "contrast": contrast,
            "pooled": mean_over_bags(pooled),
        }

    def _pseudo_labels(
        self, log_probs: Tensor, candidates: Tensor, bags: BagBatch
    ) -> tuple[Tensor, Tensor]:
        """Return z (N,) and a mask (N,) of the instances made positive by the bag's label.

        With targets of at most one half, p_ic is rarely the largest, and once no instance is
        positive, none becomes positive again. A positive bag has positive instances, so its most
        likely ones are taken (A137).
        """
        own = bags.labels[segment_ids(bags.offsets, bags.features.shape[0])]
        likely = log_probs.gather(1, own.unsqueeze(1))[:, 0]
        sure = segment_rank(likely, bags.offsets, descending=True) < self.least_positives
        sure &= own > 0
        return torch.where(sure, own, _best(log_probs, candidates)), sure

    def _chosen(self, bags: BagBatch, sure: Tensor, key: int, learnt: Tensor) -> Tensor:
        """Return the rows of at most ``max_anchors`` learnt instances of a bag, sure ones first."""
        order = random_order(bags, key).masked_fill(sure, torch.iinfo(torch.int64).min)
        few = segment_rank(order, bags.offsets) < self.max_anchors
        return (few & learnt).nonzero()[:, 0]

    def _contrast(
        self, features: Tensor, queries: Tensor, names: Tensor, memory: INSMemory, warm: bool
    ) -> Tensor:
        """Return the mean contrastive loss of this step's anchors; update prototypes and queue.

        Args:
            features: (s, D) of this process's anchors.
            queries: (s, P).
            names: (s, 3) row in the table, pseudo label, and a number to sort by.
            memory: prototypes and queue.
            warm: contrast only with the own key and the queue.
        """
        with torch.no_grad():
            keys = unit(self.key_project(self.key_embed(self.view(features))))
        all_queries, all_keys, all_names = map(gather_rows, (queries, keys, names))  # S rows
        labels = all_names[:, 1]
        allowed, positive = _pairs(names, all_names, memory.queue_labels, warm)
        # Copied because the queue changes before the backward pass.
        others = torch.cat([all_queries, all_keys, memory.queue.to(all_keys)])
        losses = contrastive_loss(queries, others, allowed, positive, self.temperature)
        order = all_names[:, 2].argsort(stable=True)
        memory.update_prototypes(
            all_queries.detach()[order], labels[order], self.prototype_momentum
        )
        memory.enqueue(all_keys, labels)
        count = torch.full((), losses.shape[0], device=losses.device)
        return losses.sum() / global_mean_count(count, losses.dtype)

    @torch.no_grad()
    def update_keys(self) -> None:
        """Update the second network towards the first, after an optimizer step."""
        for key, query in (
            *zip(self.key_embed.parameters(), self.embed.parameters(), strict=True),
            *zip(self.key_project.parameters(), self.project.parameters(), strict=True),
        ):
            key.lerp_(query, 1 - self.key_momentum)


def _pairs(
    names: Tensor, all_names: Tensor, queue_labels: Tensor, warm: bool
) -> tuple[Tensor, Tensor]:
    """Return A(i) and P(i) among S queries, S keys and the queue, each (s, 2 S + Q) bool.

    An instance that occurs twice in a step is not contrasted with itself (A135).
    """
    own = names[:, :1] == all_names[:, 0]
    filled = (queue_labels >= 0).expand(names.shape[0], -1)
    if warm:
        nothing = torch.zeros_like(own)
        allowed = torch.cat([nothing, own, filled], dim=1)
        return allowed, torch.cat([nothing, own, torch.zeros_like(filled)], dim=1)
    alike = names[:, 1:2] == all_names[:, 1]
    allowed = torch.cat([~own, torch.ones_like(own), filled], dim=1)
    return allowed, torch.cat([alike & ~own, alike, names[:, 1:2] == queue_labels], dim=1)


def contrastive_loss(
    queries: Tensor, others: Tensor, allowed: Tensor, positive: Tensor, temperature: float
) -> Tensor:
    """Return the contrastive loss of each query against its positives among the allowed rows.

    Args:
        queries: (n, P) of length 1.
        others: (M, P) of length 1.
        allowed: (n, M) bool, A(i).
        positive: (n, M) bool, P(i): a subset of the allowed rows, at least one per query.
        temperature: tau.

    Returns:
        (n,), InfoNCE for a single positive.
    """
    scores = products(queries, others) / temperature
    log_probs = scores.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
    # A product with the mask would give NaN where a row is not allowed.
    sums = log_probs.masked_fill(~positive, 0.0).sum(dim=1)
    return -sums / positive.sum(dim=1)


def _best(scores: Tensor, candidates: Tensor) -> Tensor:
    return scores.masked_fill(~candidates, -torch.inf).argmax(dim=1)


def _check_task(num_classes: int, task: MILTask) -> None:
    num_logits(num_classes, task)
    if task not in CLASS_TASKS:
        raise ValueError(
            "INS labels single instances as negative or as of their bag's class; instances of the "
            f"task {task} have neither. Use another model, such as models.mil.abmil.ABMIL"
        )
    if task == "multilabel":
        raise ValueError(
            "INS treats an instance as negative or as of its bag's only class, which a multilabel "
            "task does not define; use binary or multiclass"
        )


def _check_shares(**shares: float | Sequence[float]) -> None:
    for name, value in shares.items():
        values = [value] if isinstance(value, int | float) else list(value)
        if not all(0 <= v <= 1 for v in values):
            raise ValueError(f"{name} lies in [0, 1], got {value}")
