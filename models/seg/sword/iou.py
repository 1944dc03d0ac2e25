"""Heads of SWORD that predict the IoU of a query's box and of its mask with its object.

    loss = BCE(predicted logit, IoU), the mean over the matched queries of a layer

with the IoU of the predicted box, or of the predicted mask (logit above 0) at stride 4, as a target
without a gradient. Queries without an object have no loss. Assumptions A614, A615.

Letters: B images, L layers, Q queries, C width, P pairs of a query and an object.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses.box import to_corners
from models.ops.distributed import LossTerm, sum_by_image
from models.ops.precision import at_least_float32
from models.seg.deformable_detr.criterion import Matched
from models.seg.deformable_detr.layers import MLP

_PRIOR_LOGIT = -math.log(99)  # UNINEXT: predictions begin at 0.01
_EPSILON = 1e-7  # keeps the quotients of boxes without extent finite


class IoUHeads(nn.Module):
    """An MLP for the box and one for the mask of each decoder layer.

    Args:
        width: C.
        layers: L.
    """

    new_weights = ("",)  # no public file has them

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.box = nn.ModuleList(MLP(width, 1) for _ in range(layers))
        self.mask = nn.ModuleList(MLP(width, 1) for _ in range(layers))
        for head in (*self.box, *self.mask):
            last: nn.Linear = head.layers[-1]  # type: ignore[index, union-attr, assignment]
            nn.init.constant_(last.bias, _PRIOR_LOGIT)

    def terms(self, found: Matched) -> dict[str, list[LossTerm]]:
        """Return ``iou_box`` and ``iou_mask``, one term for each layer.

        Args:
            found: pairs of all layers.
        """
        batch, number, queries = found.logits.shape[:3]
        rows, images = found.matches.rows, found.matches.images
        layers = rows // queries % number
        order = layers.argsort(stable=True)
        sizes = torch.bincount(layers, minlength=number).tolist()
        parts = torch.split(found.queries.flatten(0, 2)[rows[order]], sizes)
        cells = (images * number + layers)[order]
        counts = sum_by_image(torch.ones_like(cells), cells, batch * number).view(batch, number)
        terms = {}
        targets = {"iou_box": box_ious(found), "iou_mask": mask_ious(found)}
        for (name, target), heads in zip(targets.items(), (self.box, self.mask), strict=True):
            found_each = [head(part) for head, part in zip(heads, parts, strict=True)]
            logits = at_least_float32(torch.cat(found_each).squeeze(1))
            wanted = target[order].to(logits.dtype)
            loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            totals = sum_by_image(loss, cells, batch * number).view(batch, number)
            terms[name] = [LossTerm(*one) for one in zip(totals.T, counts.T, strict=True)]
        return terms


@torch.no_grad()
def box_ious(found: Matched) -> Tensor:
    """Return (P,), the IoU of each predicted box with that of its object."""
    boxes = at_least_float32(found.boxes).flatten(0, 2)[found.matches.rows]
    wanted = to_corners(found.objects.boxes[found.matches.objects])
    corners = to_corners(boxes)
    low = torch.maximum(corners[:, :2], wanted[:, :2])
    high = torch.minimum(corners[:, 2:], wanted[:, 2:])
    common = _area((high - low).clamp(min=0))
    total = _area(corners[:, 2:] - corners[:, :2]) + _area(wanted[:, 2:] - wanted[:, :2])
    return common / (total - common).clamp(min=_EPSILON)


@torch.no_grad()
def mask_ious(found: Matched) -> Tensor:
    """Return (P,), the IoU of each predicted mask with that of its object, 0 if both are empty."""
    each = []
    for logits, truth, _ in found.masks:
        inside = logits > 0
        common = (inside & truth).sum(dim=1)
        either = (inside | truth).sum(dim=1)
        each.append(common / either.clamp(min=1))
    return torch.cat(each)


def _area(extent: Tensor) -> Tensor:
    return extent[:, 0] * extent[:, 1]
