"""SC-MIL: supervised contrastive learning of bag embeddings together with their classifier.

Juyal, Shingi, Javed et al., "SC-MIL: Supervised Contrastive Multiple Instance Learning for
Imbalanced Classification in Pathology", WACV 2024, arXiv 2303.13405. For unequal class frequencies:
the embedding is learnt by comparing bags, where rare classes have as much influence as common
ones, and training moves gradually from the embedding to the classifier. It wraps any model that
embeds a bag:

    u_i   = g(z_i) / |g(z_i)|,   g = Linear(M, M) - ReLU - Linear(M, 128)
    L_sc  = supervised contrastive loss of u over the bags of a step on all processes
            (formula: `models.losses.supervised_contrastive`)
    L     = alpha L_sc + (1 - alpha) L_classifier
    alpha = 1 - p  |  1 - p^2  |  (1 + cos(pi p)) / 2      p: fraction of the training that is done

Every bag is used twice, as two views of a fixed number of its instances, so that a bag has a
partner even if it is the only one of its class. The instances of a view depend on (key, bag,
instance); the datamodule chooses the bags of a step (``sampler: balanced_batches``).

The parameters of the wrapped model are divided into those of the embedding and the head. The head
can be trained together with the embedding without passing gradients to it, or later, on a frozen
embedding (`lightning_modules.sc_mil`).

Letters: N instances of B bags, v instances of a view, M embedding width.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.losses.supervised_contrastive import supervised_contrastive_loss
from models.mil.protocol import (
    LeaveOneOut,
    MILModel,
    ModelFactory,
    Reduction,
    ScheduledLosses,
    UsesTrainingBags,
    leave_one_out_of,
    positive_widths,
)
from models.ops.bags.gather_rows import gather_rows
from models.ops.bags.keyed_random import draw_key, random_order
from models.ops.bags.ragged import segment_ids
from models.ops.bags.ragged_order import segment_rank
from models.ops.precision import at_least_float32
from structures import BagBatch, MILOutput, MILTask
from structures.tasks import has_classes

Curriculum = Literal["linear", "parabolic", "cosine", "contrastive"]
_ALPHA: dict[str, Callable[[float], float]] = {
    "linear": lambda p: 1 - p,
    "parabolic": lambda p: 1 - p**2,
    "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2,
    "contrastive": lambda p: 1.0,
}


class SCMIL(nn.Module):
    """Model with an additional contrastive loss of its bag embeddings.

    Args:
        in_features: width of an instance's features.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: what the logits mean.
        learner: constructor of the model, which takes feature vectors, not images; its output needs
            ``embeddings``, and several embeddings of a bag are concatenated.
        view_instances: v; a smaller bag is complete in both views, the views of a bag with at least
            2 v instances are disjoint.
        projection_dim: width of u.
        temperature: temperature of the contrastive loss.
        curriculum: shape of alpha; ``contrastive`` is always 1, for a first stage.
        stop_gradient: do not pass gradients of the classifier's terms to the embedding.

    Raises:
        ValueError: the task has no classes, a width or the temperature is not positive, or the
            model returns no embeddings, or no gradient of the embeddings reaches a parameter.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        learner: ModelFactory,
        view_instances: int,
        projection_dim: int = 128,
        temperature: float = 0.1,
        curriculum: Curriculum = "parabolic",
        stop_gradient: bool = False,
    ) -> None:
        super().__init__()
        positive_widths(view_instances=view_instances, projection_dim=projection_dim)
        if not has_classes(task):
            raise ValueError(
                "SC-MIL draws bags of the same class together, and the task "
                f"{task} has no classes; train the model that it wraps without it"
            )
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.task: MILTask = task
        self._facts = in_features, num_classes
        self.learner = learner(in_features, num_classes, task)
        self.permutation_invariant = getattr(self.learner, "permutation_invariant", True)
        # Terms that compare the bags of a batch, so that a batch is not the mean of its bags.
        self.joint_terms = ("contrastive", *getattr(self.learner, "joint_terms", ()))
        self.parts = _parts_of(self.learner, in_features, num_classes, task)
        width = self.parts.width
        self.projection = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection_dim)
        )
        self.view_instances, self.temperature = view_instances, temperature
        self.curriculum: Curriculum = curriculum
        self.stop_gradient = stop_gradient

    def set_training_bags(self, numbers: Tensor, labels: Tensor, sizes: Tensor) -> None:
        """Pass the training bags on to a model that uses them."""
        if isinstance(self.learner, UsesTrainingBags):
            self.learner.set_training_bags(numbers, labels, sizes)

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return the model's output for complete bags."""
        output: MILOutput = self.learner(bags)
        return output

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return the loss terms of the wrapped model, the classifier."""
        return cast(MILModel, self.learner).losses(output, bags, reduction)

    def training_losses(self, bags: BagBatch) -> dict[str, Tensor]:
        """Return the terms of a training step: ``contrastive`` and those of the wrapped model.

        ``contrastive`` compares the bags of all processes, which must all call this; the wrapped
        model's terms are means over both views of the same bags (A130).
        """
        views = two_views(bags, self.view_instances, draw_key() if self.training else 0)
        output: MILOutput = self.learner(views)
        projected = at_least_float32(self.projection(_embeddings(output)))
        rows, labels = gather_rows(F.normalize(projected, dim=1)), gather_rows(partners(views))
        if self.stop_gradient:
            named = dict(self.learner.named_parameters())
            fixed: dict[str, Tensor] = {n: named[n].detach() for n in self.parts.encoder}
            output = functional_call(self.learner, fixed, (views,))
        return {
            **self.losses(output, views),
            "contrastive": supervised_contrastive_loss(rows, labels, self.temperature),
        }

    @property
    def leave_one_out(self) -> LeaveOneOut | None:
        """That of the wrapped model."""
        return leave_one_out_of(self.learner)

    def loss_factors(self, progress: float) -> dict[str, float]:
        """Return alpha for ``contrastive`` and 1 - alpha times the wrapped model's own factors."""
        alpha, own = _ALPHA[self.curriculum](progress), self.model_factors(progress)
        terms = {name: (1 - alpha) * own.get(name, 1.0) for name in self.parts.terms}
        return {**terms, "contrastive": alpha}

    def model_factors(self, progress: float) -> dict[str, float]:
        """Return the factors of the wrapped model's terms, if it has any."""
        learner = self.learner
        return learner.loss_factors(progress) if isinstance(learner, ScheduledLosses) else {}

    def unreached(self) -> tuple[str, ...]:
        """Return parameters on which the embedding depends without receiving a gradient.

        The contrastive term cannot train them: they only affect a choice, such as the instance of
        the largest score, or lie behind a stopped gradient.
        """
        probed = copy.deepcopy(self.learner).eval().float().cpu()
        generator = torch.Generator().manual_seed(0)
        bag = _probe(16, *self._facts, self.task)
        bag.features.normal_(generator=generator)
        found = []
        with torch.no_grad():
            wanted = _embeddings(probed(bag))
            for name in self.parts.head:
                parameter = probed.get_parameter(name)
                before = parameter.clone()
                for _ in range(8):  # a single other value may lead to the same choice
                    parameter.normal_(generator=generator)
                    if not torch.equal(_embeddings(probed(bag)), wanted):
                        found.append(name)
                        break
                parameter.copy_(before)
        return tuple(found)


def partners(bags: BagBatch) -> Tensor:
    """Return labels of which equal ones attract, (B,) or (B, C).

    A bag whose grade is unknown attracts its other view alone (A750).
    """
    if bags.labels.ndim == 2:
        return bags.labels
    return torch.where(bags.labels < 0, -1 - bags.index, bags.labels)


def two_views(bags: BagBatch, most: int, key: int) -> BagBatch:
    """Return two views of each bag: a batch of 2 B bags, the first views before the second.

    The instances of a bag are shuffled; the first ``most`` are one view and the last ``most`` the
    other. The views are disjoint if the bag is large enough, and complete if it has at most
    ``most`` instances (A129). Bags that occur twice in the batch get different views.

    Args:
        bags: packed bags.
        most: number of instances of a view.
        key: key of the random order, see `models.ops.bags.keyed_random`.
    """
    total = bags.features.shape[0]
    ids = segment_ids(bags.offsets, total)
    same = bags.index.unsqueeze(1) == bags.index
    times_before = same.tril(-1).sum(dim=1)
    # A separate number for each occurrence; the index is far below 2^32.
    numbered = dataclasses.replace(bags, index=bags.index | (times_before << 32))
    place = segment_rank(random_order(numbered, key), bags.offsets)
    taken = torch.cat([place < most, place >= bags.sizes()[ids] - most])
    rows = taken.nonzero()[:, 0] % total
    sizes = bags.sizes().clamp(max=most).repeat(2)
    known = bags.instance_labels
    return BagBatch(
        features=bags.features[rows],
        offsets=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        labels=torch.cat([bags.labels, bags.labels]),
        index=bags.index.repeat(2),
        coords=None if bags.coords is None else bags.coords[rows],
        instance_labels=None if known is None else known[rows],
        bag_ids=bags.bag_ids * 2,
        groups=bags.groups * 2,
        instance_index=bags.numbers()[rows],
    )


class _Parts(NamedTuple):
    """Parameters and loss terms of a wrapped model.

    Attributes:
        width: M.
        encoder: names of the parameters that a gradient of the embedding reaches.
        head: names of the other parameters; frozen parameters are in neither.
        terms: names of the loss terms.
    """

    width: int
    encoder: tuple[str, ...]
    head: tuple[str, ...]
    terms: tuple[str, ...]


def _parts_of(learner: nn.Module, in_features: int, num_classes: int, task: MILTask) -> _Parts:
    """Find the parts with one small bag; model and torch's random state are left unchanged."""
    probed = copy.deepcopy(learner).eval()
    bag = _probe(1, in_features, num_classes, task)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        output: MILOutput = probed(bag)
        embeddings = _embeddings(output)
        if not embeddings.requires_grad:
            raise ValueError("SC-MIL trains embeddings of bags; this model's take no gradient")
        trained = {n: p for n, p in probed.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(embeddings.sum(), list(trained.values()), allow_unused=True)
        terms = cast(MILModel, probed).losses(output, bag, "none")
    reached = {name: gradient is not None for name, gradient in zip(trained, found, strict=True)}
    encoder, head = (tuple(n for n in reached if reached[n] is part) for part in (True, False))
    return _Parts(embeddings.shape[1], encoder, head, tuple(terms))


def _probe(size: int, in_features: int, num_classes: int, task: MILTask) -> BagBatch:
    """Return one bag of zeros."""
    label = torch.zeros((1, num_classes) if task == "multilabel" else 1, dtype=torch.int64)
    number = torch.zeros(1, dtype=torch.int64)
    return BagBatch(torch.zeros(size, in_features), torch.tensor([0, size]), label, number)


def _embeddings(output: MILOutput) -> Tensor:
    """Return the bag embeddings, (B, M)."""
    if output.embeddings is None:
        raise ValueError("SC-MIL compares embeddings of bags, and this model's output has none")
    return output.embeddings.flatten(1)
