"""MHIM: masked hard instance mining with a student and a momentum teacher.

Tang et al., "Multiple Instance Learning Framework with Masked Hard Instance Mining for Whole Slide
Image Classification", ICCV 2023, arXiv 2307.15254; "MHIM-v2", IJCV 2025, arXiv 2509.11526. Student
S and teacher T are the same model with two sets of weights. In a training step the teacher, without
gradients but with dropout, scores the instances of a bag, and the student sees the instances that
the masks of `models.mil.mhim.masking` keep.

    L     = L_S + alpha L_con             alpha in the recipe's loss_weights
    L_con = - sum_d softmax(z_T / tau_T)_d log softmax(z_S / tau_S)_d     z the bag's embedding;
            of DSMIL, which has one embedding per class, the mean over the classes
    T    <- m(t) T + (1 - m(t)) S         after each optimizer step; buffers are copied
    m(t)  = m, or 1 - (1 - m) (1 + cos(pi t)) / 2      t the fraction of the training that is done

The student predicts on all instances. The teacher starts from the weights of the plain model
trained before (`lightning_modules.mhim`), the student from its embedding weights. MHIM-v2 scores
instances by their contribution to the logits, and compresses a random part of the kept instances
into tokens (`models.mil.mhim.global_recycle`).

Instances are chosen before the student embeds them. Each is embedded by itself, so the losses equal
those of choosing after the embedding, while only the kept instances are computed.

Letters: N instances of B bags, E embedding width, C logits, K heads of attention.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.losses.bag_classification import mean_over_bags
from models.mil.mhim.global_recycle import GlobalRecycle, append_tokens
from models.mil.mhim.masking import MaskRatios, half_cosine
from models.mil.protocol import (
    LeaveOneOut,
    ModelFactory,
    Reduction,
    ScheduledLosses,
    ScoresInstances,
    TwoPartModel,
    UsesTrainingBags,
    leave_one_out_of,
)
from models.ops.bags.keyed_random import draw_key, random_order
from models.ops.bags.ragged import segment_ids
from models.ops.masks.instances import floor_share, random_instances
from models.ops.precision import at_least_float32
from structures import BagBatch, MILOutput, MILTask

Scores = Literal["attention", "instance_logits", "class_aware"]
_RECYCLE = 2  # stream of random choices, different from the streams of the masks


class MHIM(nn.Module):
    """Student model with a momentum teacher that masks easy instances.

    Args:
        in_features: D.
        num_classes: classes of the task.
        task: see `MILTask`.
        learner: constructor of the model, a `TwoPartModel`; its ``embed`` embeds an instance.
        masks: fractions of the instances that are masked for the student.
        scores: scores by which the teacher ranks instances: its ``attention``; the largest of an
            instance's own ``instance_logits`` (A153); or ``class_aware``, the probability of the
            class favoured by an instance's contribution to the logits (v2).
        recycle: module that compresses a part of the kept instances into tokens (v2), or None.
        recycle_keep_ratio: fraction of the kept instances that is not compressed.
        momentum: m.
        momentum_schedule: ``constant``, or ``cosine`` from m to 1.
        student_init: weights of the first stage that the student starts from: ``fc`` for the
            embedding of an instance, ``all``, or ``none``.
        student_temperature: tau_S.
        teacher_temperature: tau_T.

    Raises:
        ValueError: a number is out of range, or the model lacks what the arguments ask for.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        learner: ModelFactory,
        masks: MaskRatios,
        scores: Scores = "attention",
        recycle: GlobalRecycle | None = None,
        recycle_keep_ratio: float = 1.0,
        momentum: float = 0.9999,
        momentum_schedule: Literal["constant", "cosine"] = "constant",
        student_init: Literal["fc", "none", "all"] = "fc",
        student_temperature: float = 1.0,
        teacher_temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.task: MILTask = task
        self.student = learner(in_features, num_classes, task)
        self.permutation_invariant = getattr(self.student, "permutation_invariant", True)
        self._check_learner(scores, student_init)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum lies in [0, 1], got {momentum}")
        if (recycle is None) != (recycle_keep_ratio == 1) or not 0 < recycle_keep_ratio <= 1:
            raise ValueError(
                "recycle needs recycle_keep_ratio in (0, 1), and without recycle the ratio must be "
                f"1, got {recycle_keep_ratio}"
            )
        if min(student_temperature, teacher_temperature) <= 0:
            raise ValueError(
                f"temperatures are positive, got {student_temperature} and {teacher_temperature}"
            )
        # Equal to the student until the first stage is loaded; only `update_teacher` changes it.
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.masks, self.scores = masks, scores
        self.recycle, self.recycle_keep_ratio = recycle, recycle_keep_ratio
        self.momentum, self.momentum_schedule = momentum, momentum_schedule
        self.student_init = student_init
        self.temperatures = (student_temperature, teacher_temperature)
        self._tokens: list[Tensor] = []  # tokens of the batches since the last optimizer step

    def _check_learner(self, scores: Scores, student_init: str) -> None:
        name = type(self.student).__name__
        if not isinstance(self.student, TwoPartModel):
            raise ValueError(f"MHIM needs a model with embed_bags and pool, {name} has none")
        if scores == "class_aware" and not isinstance(self.student, ScoresInstances):
            raise ValueError(f"scores: class_aware needs class_scores, {name} has none")
        if student_init == "fc" and not isinstance(getattr(self.student, "embed", None), nn.Module):
            raise ValueError(f"student_init: fc needs a model with `embed`, {name} has none")

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return the student's output on all instances."""
        output: MILOutput = self.student(bags)
        return output

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return the loss terms of the student."""
        terms: dict[str, Tensor] = self._learner.losses(output, bags, reduction)
        return terms

    @property
    def leave_one_out(self) -> LeaveOneOut | None:
        """That of the student."""
        return leave_one_out_of(self.student)

    def loss_factors(self, progress: float) -> dict[str, float]:
        """Return the loss factors of the student."""
        student: Any = self.student
        return student.loss_factors(progress) if isinstance(student, ScheduledLosses) else {}

    def set_training_bags(self, numbers: Tensor, labels: Tensor, sizes: Tensor) -> None:
        """Pass the training bags on to student and teacher."""
        for learner in (self.student, self.teacher):
            if isinstance(learner, UsesTrainingBags):
                learner.set_training_bags(numbers, labels, sizes)

    @property
    def _learner(self) -> TwoPartModel:
        student: Any = self.student
        return student  # type: ignore[no-any-return]

    def training_losses(self, bags: BagBatch, progress: float) -> dict[str, Tensor]:
        """Return the student's terms on the kept instances, and ``consistency``.

        Args:
            bags: complete bags.
            progress: fraction of the training that is done, in [0, 1].
        """
        key = draw_key() if self.training else 0
        target, kept = self.teach(bags, progress, key)
        seen = self._learner.embed_bags(bags.keep(kept))
        if self.recycle is not None:
            seen = self._recycled(seen, self.recycle, key)
        output = self._learner.pool(seen)
        consistency = embedding_consistency(_embeddings(output), target, *self.temperatures)
        terms = self._learner.losses(output, seen)
        return terms | {"consistency": mean_over_bags(consistency)}

    @torch.no_grad()
    def teach(self, bags: BagBatch, progress: float, key: int) -> tuple[Tensor, Tensor]:
        """Return the teacher's embeddings of the bags and a mask of the student's instances.

        Args:
            bags: complete bags.
            progress: fraction of the training that is done, in [0, 1].
            key: key of the random choices.

        Returns:
            (B, E) or (B, C, E), and (N,) bool.
        """
        teacher: Any = self.teacher
        embedded = teacher.embed_bags(bags)
        output = teacher.pool(embedded)
        scores = self._scores(embedded, output)
        return _embeddings(output), self.masks.kept(scores, bags, progress, key)

    def _scores(self, embedded: BagBatch, output: MILOutput) -> Tensor:
        """Return the scores by which the teacher ranks instances, (N,) or (N, K)."""
        if self.scores == "class_aware":
            teacher: Any = self.teacher
            probabilities: Tensor = teacher.class_scores(embedded, output)
            return probabilities
        found = getattr(output, self.scores)
        if found is None:
            raise ValueError(f"scores: {type(self.teacher).__name__} gives no {self.scores}")
        scores: Tensor = found
        return scores.amax(dim=1) if self.scores == "instance_logits" else scores

    def _recycled(self, seen: BagBatch, recycle: GlobalRecycle, key: int) -> BagBatch:
        """Replace a random part of each bag's instances by tokens."""
        sizes, offsets = seen.sizes(), seen.offsets
        order = random_order(seen, key, _RECYCLE)
        # At least one instance is kept; if it is the only one, the tokens are made from it (A117).
        counts = floor_share(sizes, self.recycle_keep_ratio).clamp(min=1)
        stays = random_instances(torch.ones_like(order, dtype=torch.bool), order, offsets, counts)
        alone = (sizes == 1)[segment_ids(offsets, order.shape[0])]
        tokens = recycle(seen.keep(~stays | alone))
        if self.training:
            self._tokens.append(at_least_float32(tokens.detach()))
        return append_tokens(seen.keep(stays), tokens)

    def start_from_teacher(self) -> None:
        """Copy the teacher's weights selected by `student_init` to the student."""
        teacher, student = self.teacher.state_dict(), self.student.state_dict()
        taken = {"fc": "embed.", "all": "", "none": None}[self.student_init]
        if taken is not None:
            student |= {n: v for n, v in teacher.items() if n.startswith(taken)}
        self.student.load_state_dict(student)

    @torch.no_grad()
    def update_teacher(self, progress: float) -> None:
        """Update the teacher and the global queries after an optimizer step.

        Every process must call it.

        Args:
            progress: fraction of the training that was done before the step, in [0, 1].
        """
        momentum = self.momentum
        if self.momentum_schedule == "cosine":
            momentum = 1 - (1 - momentum) * half_cosine(progress)
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for average, trained in pairs:
            average.lerp_(trained, 1 - momentum)
        for buffer, source in zip(self.teacher.buffers(), self.student.buffers(), strict=True):
            buffer.copy_(source)
        if self.recycle is not None and self._tokens:
            tokens = torch.cat(self._tokens)  # (bags, k, E)
            self._tokens = []
            self.recycle.update_queries(tokens.sum(dim=0), tokens.shape[0])


def embedding_consistency(
    student: Tensor, teacher: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Return the cross-entropy of the student's embedding relative to the teacher's for each bag.

    Args:
        student: (B, E), or (B, C, E) with an embedding for each class (A152).
        teacher: of the same shape; receives no gradient.
        student_temperature: divisor of the student's values before the softmax.
        teacher_temperature: divisor of the teacher's values before the softmax.

    Returns:
        (B,), at least the teacher's entropy; the mean over the classes where there are several.
    """
    target = (at_least_float32(teacher.detach()) / teacher_temperature).softmax(dim=-1)
    logs = (at_least_float32(student) / student_temperature).log_softmax(dim=-1)
    return -(target * logs).sum(dim=-1).view(student.shape[0], -1).mean(dim=1)


def _embeddings(output: MILOutput) -> Tensor:
    if output.embeddings is None:
        raise ValueError("MHIM needs a model that returns an embedding of each bag")
    return output.embeddings
