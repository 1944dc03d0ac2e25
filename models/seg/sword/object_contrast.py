"""The part of SWORD that contrasts queries: embeddings, object queue, choice of queries.

Assumptions A613, A619.

Letters: B images, Q queries, C width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.bags.gather_rows import gather_rows
from models.ops.distributed import LossTerm
from models.ops.precision import at_least_float32
from models.seg.deformable_detr.criterion import MatchCosts, Matched
from models.seg.deformable_detr.layers import MLP
from models.seg.deformable_detr.one_to_many import one_to_many
from models.seg.object_queue import ObjectQueue
from models.seg.sword.contrast import Form, Negatives, contrast_term, outside_negatives

_NEAR, _WIDE = 10, 100  # largest IoUs that count for positives, and for what is near an object


class ObjectContrast(nn.Module):
    """Contrast of the last layer's queries with the centre of the object queue.

    Args:
        width: C.
        queue_size: embeddings in the queue.
        negatives: see models/seg/sword/contrast.py.
        form: see there.
        temperature: see there.

    Attributes:
        queue: embeddings of the positives of earlier steps, of all processes.
    """

    new_weights = ("",)  # no public file has them

    def __init__(
        self, width: int, queue_size: int, negatives: Negatives, form: Form, temperature: float
    ) -> None:
        super().__init__()
        self.head = MLP(width, width)
        for linear in self.head.layers:  # no bias, which would give all queries one direction
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        self.queue = ObjectQueue(queue_size, width)
        self.negatives, self.form, self.temperature = negatives, form, temperature
        self._seen: tuple[Tensor, Tensor] | None = None  # positives of this step, their images

    def term(self, found: Matched, free: Tensor | None, index: Tensor, key: int) -> LossTerm:
        """Return the term of each image, 0 while the queue is empty.

        Where gradients are enabled, the embeddings of the positives are kept for ``update``.

        Args:
            found: predictions and objects.
            free: (B, Q) bool, queries that may be negatives of ``outside``; None for all.
            index: (B,) int64, numbers of the images.
            key: seed of the choice of ``outside``.
        """
        embeddings = F.normalize(at_least_float32(self.head(found.queries[:, -1])), dim=2)
        owners, wide = _owners(found, _NEAR), _owners(found, _WIDE)  # (B, Q)
        if self.negatives == "ring":
            negative = (wide >= 0) & (owners < 0)
        else:
            outside = (wide < 0) & (owners < 0)
            outside = outside if free is None else outside & free
            negative = outside_negatives(owners, outside, index, key)
        if torch.is_grad_enabled():
            self._keep(embeddings.detach(), owners >= 0, index)
        term = contrast_term(
            embeddings,
            self.queue.centre(),
            owners,
            negative,
            found.objects.counts,
            self.temperature,
            self.form,
        )
        return LossTerm(term.total * self.queue.filled(), term.count)

    @torch.no_grad()
    def update(self) -> None:
        """Push the positives of all processes since the last call, in the order of their images."""
        seen, self._seen = self._seen, None
        rows, images = seen or (self.queue.rows[:0], self.queue.pushed.new_zeros(0))
        rows, images = gather_rows(rows), gather_rows(images)
        # no more than the queue holds, so that its position does not depend on the processes
        self.queue.push(rows[images.argsort(stable=True)[-len(self.queue.rows) :]])

    def _keep(self, embeddings: Tensor, positive: Tensor, index: Tensor) -> None:
        """Keep positives in the order of their images, at most as many as the queue holds."""
        rows = embeddings[positive].to(self.queue.rows)
        images = index.unsqueeze(1).expand_as(positive)[positive]
        if self._seen is not None:
            rows, images = torch.cat([self._seen[0], rows]), torch.cat([self._seen[1], images])
        order = images.argsort(stable=True)[-len(self.queue.rows) :]
        self._seen = rows[order], images[order]


def _owners(found: Matched, top: int) -> Tensor:
    """Return (B, Q) int64, the object that SimOTA assigns to each query of the last layer, or -1.

    Args:
        found: predictions and objects.
        top: IoUs of an object whose sum is the number of its queries.
    """
    logits, boxes = found.logits[:, -1:], found.boxes[:, -1:]
    matches = one_to_many(logits, boxes, found.objects, MatchCosts(), top)
    rows = matches.objects.new_full(logits.shape[:3], -1).flatten()
    return rows.index_copy(0, matches.rows, matches.objects).view(logits.shape[0], -1)
