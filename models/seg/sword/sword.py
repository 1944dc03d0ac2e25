"""SWORD (Wu et al. 2023, arXiv 2308.04206): Deformable DETR that is not taught what background is.

Objects without a label must not become background. Three parts, each of which can be switched off:

- Stop-gradient: class heads read the detached queries, so that no class loss reaches the features;
  with it, several queries can be assigned to an object (SimOTA).
- IoU heads say how well a query finds its object; a score is sqrt(class probability x box IoU).
- Contrast: embeddings of queries with an object are drawn to the centre of a queue of such
  embeddings of earlier steps, others pushed away from it.

The authors' code is not published. The network is that of the code family of IDOL and UNINEXT, by
the same authors; what is a choice of ours is in docs/ASSUMPTIONS.md, A610 to A619.
Stop-gradient is also before the class head of two stages (A617).

Letters: B images, L layers, Q queries, C width, K classes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from formats.weights.public import PublicWeights
from models.ops.distributed import LossTerm
from models.ops.precision import at_least_float32
from models.seg.deformable_detr.checks import Assignment
from models.seg.deformable_detr.criterion import Matched
from models.seg.deformable_detr.deformable_detr import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DeformableDETR,
)
from models.seg.deformable_detr.names import transformers_weights
from models.seg.object_queue import ObjectQueue
from models.seg.protocol import Reduction
from models.seg.sword.contrast import Form, Negatives
from models.seg.sword.iou import IoUHeads
from models.seg.sword.object_contrast import ObjectContrast
from models.seg.sword.scores import Score, score_logits
from structures import SegBatch

_OWN = ("iou_heads.", "contrast.")  # tensors that Deformable DETR does not have


class SWORD(DeformableDETR):
    """Deformable DETR with stop-gradient, IoU heads and contrast, a ``TimedSegModel``.

    With all switches off and ``hungarian`` it is Deformable DETR, with the same seeded weights.

    Args:
        num_classes: foreground classes, K; usually 1, with ``class_agnostic`` data.
        backbone: see ``DeformableDETR``.
        stop_gradient: class heads, also those of proposals, give the queries no gradient.
        iou_heads: predict IoUs of box and mask.
        contrast: contrast queries with the centre of the object queue.
        assignment: see ``DeformableDETR``; contrast always has the positives of ``sim_ota``.
        negatives: ``ring`` or ``outside``, see models/seg/sword/contrast.py.
        form: ``mean`` or ``sum``, see there.
        temperature: divides the products of embeddings.
        queue_size: embeddings in the queue.
        object_iou: queries whose predicted box IoU is at least this are no negatives of
            ``outside``; without IoU heads all may be.
        score: formula of the score, see models/seg/sword/scores.py; None for ``geometric`` with
            IoU heads and ``cls`` without.
        num_queries: see ``DeformableDETR``, as for all further arguments.

    Raises:
        ValueError: see ``DeformableDETR``; a number is out of its range, a choice is unknown, or
            ``score`` needs IoU heads that are off.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Module,
        *,
        stop_gradient: bool = True,
        iou_heads: bool = True,
        contrast: bool = True,
        assignment: Assignment = "sim_ota",
        negatives: Negatives = "ring",
        form: Form = "mean",
        temperature: float = 0.1,
        queue_size: int = 4096,
        object_iou: float = 0.5,
        score: Score | None = None,
        num_queries: int = 300,
        width: int = 256,
        num_heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        ffn: int = 1024,
        dropout: float = 0.1,
        box_refine: bool = True,
        two_stage: bool = False,
        class_cost: float = 2.0,
        box_cost: float = 5.0,
        giou_cost: float = 2.0,
        max_dets: int = 300,
        image_mean: tuple[float, float, float] = IMAGENET_MEAN,
        image_std: tuple[float, float, float] = IMAGENET_STD,
        in_channels: int = 3,
    ) -> None:
        _check_choices(negatives=(negatives, Negatives), form=(form, Form), score=(score, Score))
        _check_numbers(temperature, queue_size, object_iou)
        if score not in (None, "cls") and not iou_heads:
            raise ValueError(f"score: {score} needs iou_heads: true; without them it is cls")
        super().__init__(
            num_classes, backbone, num_queries=num_queries, width=width, num_heads=num_heads,
            encoder_layers=encoder_layers, decoder_layers=decoder_layers, ffn=ffn, dropout=dropout,
            box_refine=box_refine, two_stage=two_stage, assignment=assignment,
            class_cost=class_cost, box_cost=box_cost, giou_cost=giou_cost, max_dets=max_dets,
            image_mean=image_mean, image_std=image_std, in_channels=in_channels,
        )  # fmt: skip
        self.object_iou = object_iou
        self.score: Score = score or ("geometric" if iou_heads else "cls")
        if stop_gradient:
            heads = nn.ModuleList(DetachedLinear(width, num_classes) for _ in self.class_heads)
            heads.load_state_dict(self.class_heads.state_dict())
            self.class_heads = heads
        self.iou_heads = IoUHeads(width, len(self.decoder)) if iou_heads else None
        options = (queue_size, negatives, form, temperature)
        self.contrast = ObjectContrast(width, *options) if contrast else None

    def losses(
        self, batch: SegBatch, reduction: Reduction = "mean", key: int = 0
    ) -> dict[str, Tensor]:
        """Return the terms of ``DeformableDETR``, ``iou_box``, ``iou_mask`` and ``contrast``.

        The queue is read and not changed. Where gradients are enabled, the embeddings of the
        positives are kept for ``update_after_step``.

        Args:
            batch: see ``DeformableDETR``.
            reduction: see there. The IoU terms are means over the queries with an object of each
                layer, the contrast over those of the last.
            key: seed of the negatives ``outside``.

        Raises:
            ValueError: see ``DeformableDETR``.
        """
        more = functools.partial(self._more_terms, batch=batch, key=key)
        terms = self.matched_losses(batch, reduction, more)
        found: dict[str, Tensor] = {}
        for each, term in terms.items():  # iou_box.0, iou_box.1, ... are those of the layers
            name = each.partition(".")[0]
            found[name] = found[name] + term if name in found else term
        return found

    @property
    def queue(self) -> ObjectQueue | None:
        """Embeddings of objects of earlier steps; None without contrast."""
        return None if self.contrast is None else self.contrast.queue

    def update_after_step(self) -> None:
        """Push the positives of all processes since the last call, in the order of their images."""
        if self.contrast is not None:
            self.contrast.update()

    def score_logits(self, queries: Tensor) -> Tensor:
        """Return (B, Q, K), the logits of the scores of the last layer's queries."""
        classes = super().score_logits(queries)
        if self.iou_heads is None:
            return classes
        return score_logits(
            classes, self.iou_heads.box[-1](queries), self.iou_heads.mask[-1](queries), self.score
        )

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Recognise what transformers writes for DeformableDetrForObjectDetection.

        Raises:
            ValueError: the file is of another variant of the network.
        """
        wanted = {n: v for n, v in self.state_dict().items() if not n.startswith(_OWN)}
        return transformers_weights(given, wanted)

    def _more_terms(self, found: Matched, batch: SegBatch, key: int) -> dict[str, LossTerm]:
        terms: dict[str, LossTerm] = {}
        if self.iou_heads is not None:
            for name, layers in self.iou_heads.terms(found).items():
                terms |= {f"{name}.{number}": term for number, term in enumerate(layers)}
        if self.contrast is not None:
            free = self._background(found.queries[:, -1])
            terms["contrast"] = self.contrast.term(found, free, batch.index, key)
        return terms

    @torch.no_grad()
    def _background(self, queries: Tensor) -> Tensor | None:
        """Return (B, Q), which queries may be negatives of ``outside``; None without a limit."""
        assert self.contrast is not None
        if self.iou_heads is None or self.contrast.negatives == "ring":
            return None
        predicted: Tensor = self.iou_heads.box[-1](queries).squeeze(2)
        return at_least_float32(predicted).sigmoid() < self.object_iou


class DetachedLinear(nn.Linear):
    """Linear layer that gives its input no gradient."""

    def forward(self, values: Tensor) -> Tensor:
        """Return (..., outputs) for (..., inputs)."""
        return super().forward(values.detach())


def _check_choices(**given: tuple[str | None, Any]) -> None:
    for name, (value, kind) in given.items():
        if value is not None and value not in get_args(kind):
            allowed = ", ".join(get_args(kind))
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")


def _check_numbers(temperature: float, queue_size: int, object_iou: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if queue_size < 1:
        raise ValueError(f"queue_size must be at least 1, got {queue_size}")
    if not 0 <= object_iou <= 1:
        raise ValueError(f"object_iou must be in [0, 1], got {object_iou}")
