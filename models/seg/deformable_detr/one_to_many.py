"""Several queries for an object in Deformable DETR: SimOTA's rules with the costs of IDOL.

Every decoder layer is assigned on its own by models/ops/boxes/sim_ota.py, at the cost

    cost = (pos - neg) - 3 GIoU(b, b*) + 100 [not near] + 10000 [no candidate]

with pos and neg of criterion.py. A query is near an object if the centre of its box lies in the
object's box and less than 2.5 / 32 from its centre in x and y, as fractions of the valid area; it
is a candidate if either is so for some object of the image. What several queries find of one
object is suppressed in prediction, above a box IoU of 0.7. Assumptions A602, A603 and A604.

Letters: B images, L layers, Q queries, K classes, M objects.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

from models.losses.box import generalised_iou, to_corners
from models.losses.focal import focal_cost
from models.ops.boxes.nms import class_nms
from models.ops.boxes.sim_ota import sim_ota
from models.ops.precision import at_least_float32
from models.seg.deformable_detr.criterion import MatchCosts, Matches, Objects, join_pairs

_GIOU_COST = 3.0
_FAR, _NO_CANDIDATE = 100.0, 10000.0
_RADIUS = 2.5 / 32
_SUPPRESSED_ABOVE = 0.7


@torch.no_grad()
def one_to_many(
    logits: Tensor, boxes: Tensor, objects: Objects, costs: MatchCosts, top: int = 10
) -> Matches:
    """Assign every layer's queries to the objects of their image, with one copy from the device.

    Args:
        logits: (B, L, Q, K).
        boxes: (B, L, Q, 4), (centre x, centre y, width, height) as fractions of the valid area.
        objects: of the images.
        costs: not read, since this cost has weights of its own; here for the form of a matcher.
        top: IoUs of an object whose sum is the number of its queries.
    """
    del costs
    parts = [torch.split(part, objects.counts) for part in (objects.boxes, objects.labels)]
    each = [
        _costs_and_ious(*image)
        for image in zip(logits.unbind(), boxes.unbind(), *parts, strict=True)
    ]
    shapes = [pair.shape[1:] for pair in each]  # (L, Q, M)
    flat = torch.cat([pair.flatten() for pair in each]).cpu()
    pairs = []
    for part, shape in zip(
        torch.split(flat, [2 * shape.numel() for shape in shapes]), shapes, strict=True
    ):
        for cost, iou in zip(*part.view(2, *shape), strict=True):
            owner = sim_ota(cost, iou, top)
            queries = (owner >= 0).nonzero().flatten()
            pairs.append((queries, owner[queries]))
    return join_pairs(pairs, objects.counts, logits.shape[:3], logits.device)


@torch.no_grad()
def best_of_overlapping(scores: Tensor, boxes: Tensor) -> Tensor:
    """Return (B, Q) bool, False where a better query of the same class finds the same object.

    Args:
        scores: (B, Q, K); the best class of a query counts.
        boxes: (B, Q, 4), (x1, y1, x2, y2) in pixels.
    """
    best, labels = scores.flatten(0, 1).max(dim=1)
    images = torch.arange(len(scores), device=scores.device).repeat_interleave(scores.shape[1])
    kept = class_nms(
        at_least_float32(boxes).flatten(0, 1),
        best,
        labels,
        images,
        iou_thresh=_SUPPRESSED_ABOVE,
        max_dets=scores.shape[1],
    )
    found = torch.zeros_like(best, dtype=torch.bool)
    found[kept] = True
    return found.view(scores.shape[:2])


def _costs_and_ious(logits: Tensor, boxes: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Return (2, L, Q, M), the cost and the IoU of each pair of one image.

    Args:
        logits: (L, Q, K).
        boxes: (L, Q, 4).
        targets: (M, 4).
        labels: (M,).
    """
    boxes = at_least_float32(boxes)
    corners, wanted = to_corners(boxes), to_corners(targets)
    offset = (boxes[..., None, :2] - targets[:, :2]).abs()  # (L, Q, M, 2)
    in_box = (offset < targets[:, 2:] / 2).all(dim=-1)
    central = (offset < _RADIUS).all(dim=-1)
    candidate = (in_box | central).any(dim=-1, keepdim=True)
    cost = focal_cost(logits)[..., labels]
    cost = cost - _GIOU_COST * generalised_iou(corners.unsqueeze(2), wanted)
    cost = cost + _FAR * ~(in_box & central) + _NO_CANDIDATE * ~candidate
    iou = box_iou(corners.flatten(0, 1), wanted.to(corners)).view(cost.shape)
    return torch.stack([cost, iou.to(cost)])
