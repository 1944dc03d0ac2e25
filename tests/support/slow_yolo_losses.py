"""Losses of one-stage segmentation, one image, one object and one anchor at a time."""

import math

import torch
import torch.nn.functional as F
from torchvision.ops import complete_box_iou_loss

from models.seg.yolo.output import YOLOOutput

CLASSES, SIZE, BINS = 3, 64, 16
TERMS = {"box", "class", "dfl", "mask"}


def anchors(size=SIZE):
    points, strides = [], []
    for stride in (8, 16, 32):
        for y in range(size // stride):
            for x in range(size // stride):
                points.append(((x + 0.5) * stride, (y + 0.5) * stride))
                strides.append(float(stride))
    return torch.tensor(points), torch.tensor(strides)


def outputs(batch, seed=0, dtype=torch.float64, classes=CLASSES):
    """Draw raw outputs that are leaves and need gradients."""
    generator = torch.Generator().manual_seed(seed)
    points, strides = anchors()
    count = len(points)

    def draw(*shape, scale=1.0):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return values.to(dtype).requires_grad_()

    return YOLOOutput(
        class_logits=draw(batch, count, classes),
        box_logits=draw(batch, count, 4 * BINS, scale=3.0),
        coefficients=draw(batch, count, 32, scale=0.3),
        prototypes=draw(batch, 32, SIZE // 4, SIZE // 4),
        points=points,
        strides=strides,
    )


def one(output, image):
    part = slice(image, image + 1)
    return output._replace(**{name: getattr(output, name)[part] for name in output._fields[:4]})


def gradients(loss, output):
    return torch.autograd.grad(loss, tuple(output[:4]), retain_graph=True)


def total(losses):
    return sum(value.sum() for value in losses.values())


def decode(logits, point, stride):
    left, top, right, bottom = (
        (side.softmax(0) * torch.arange(BINS)).sum() * stride for side in logits.view(4, BINS)
    )
    return torch.stack([point[0] - left, point[1] - top, point[0] + right, point[1] + bottom])


def slow_assign(output, targets, top_k, alpha=0.5, beta=6.0, min_side=16):
    """Return {anchor: (object, score)} of one image and the decoded boxes."""
    points, strides = output.points, output.strides
    boxes = [
        decode(logits, point, stride)
        for logits, point, stride in zip(output.box_logits[0], points, strides, strict=True)
    ]
    wishes, inside = {}, {}
    for number in (~targets.crowd).nonzero().flatten().tolist():
        x1, y1, x2, y2 = targets.boxes[number].tolist()
        reach_x, reach_y = max(x2 - x1, min_side) / 2, max(y2 - y1, min_side) / 2
        found = []
        for anchor, (x, y) in enumerate(points.tolist()):
            if abs(x - (x1 + x2) / 2) < reach_x and abs(y - (y1 + y2) / 2) < reach_y:
                u = 1 - complete_box_iou_loss(boxes[anchor], targets.boxes[number].double())
                s = output.class_logits[0, anchor, targets.labels[number]].sigmoid()
                t = s.item() ** alpha * max(u.item(), 0) ** beta
                found.append((t, u.item(), anchor))
                inside.setdefault(anchor, []).append((u.item(), t, number))
        for t, u, anchor in sorted(found, key=lambda one: -one[0])[:top_k]:
            if t > 0:
                wishes.setdefault(anchor, []).append((u, t, number))
    got = {
        anchor: many[0] if len(many) == 1 else max(inside[anchor], key=lambda one: one[0])
        for anchor, many in wishes.items()
    }
    scores = {}
    for anchor, (_, t, number) in got.items():
        mine = [(u, t) for u, t, other in got.values() if other == number]
        best_u, best_t = max(0.0, *(u for u, _ in mine), 0.0), max(t for _, t in mine)
        scores[anchor] = (number, t * best_u / (best_t + 1e-9))
    return scores, boxes


def slow_mask_targets(targets, stride):
    """Return (M, H / 4, W / 4) bool without the cells that a smaller object has."""
    factor = 4 // stride
    cells = F.avg_pool2d(targets.masks[:, None].double(), factor)[:, 0] >= 0.5
    area = cells.sum(dim=(1, 2)).tolist()
    left = cells.clone()
    for o in range(len(cells)):
        for other in range(len(cells)):
            if (area[other], other) < (area[o], o) and not targets.crowd[other]:
                left[o] &= ~cells[other]
    return left


def slow_losses(output, targets, mask_stride=1, top_k=10, weights=None, **options):
    """Return sums and counts of one image."""
    scores, boxes = slow_assign(output, targets, top_k, **options)
    masks = slow_mask_targets(targets, mask_stride) if len(targets.boxes) else []
    wanted = torch.zeros_like(output.class_logits[0])
    kept = torch.ones_like(wanted)
    for anchor, point in enumerate(output.points):
        crowds = targets.boxes[targets.crowd]
        in_crowd = ((point > crowds[:, :2]) & (point < crowds[:, 2:])).all(dim=1).any()
        if in_crowd and anchor not in scores:
            kept[anchor] = 0
    sums = dict.fromkeys(TERMS, torch.zeros((), dtype=torch.float64))
    for anchor, (number, score) in scores.items():
        wanted[anchor, targets.labels[number]] = score
        kept[anchor] = 1 if weights is None else weights[targets.labels[number]]
        box, stride = targets.boxes[number].double(), output.strides[anchor]
        x1, y1, x2, y2 = box.tolist()
        sums["box"] = sums["box"] + score * complete_box_iou_loss(boxes[anchor], box)
        x, y = output.points[anchor].tolist()
        for side, distance in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
            cell = min(max(distance / stride.item(), 0), 14.99)
            low = math.floor(cell)
            logits = output.box_logits[0, anchor].view(4, BINS)[side].unsqueeze(0)
            for bin_, weight in ((low, low + 1 - cell), (low + 1, cell - low)):
                entropy = F.cross_entropy(logits, torch.tensor([bin_]))
                sums["dfl"] = sums["dfl"] + score * weight * entropy / 4
        logits = torch.einsum("e,ehw->hw", output.coefficients[0, anchor], output.prototypes[0])
        loss = F.binary_cross_entropy_with_logits(logits, masks[number].double(), reduction="none")
        place = torch.arange(SIZE // 4) * 4
        rows, columns = (place >= y1) & (place < y2), (place >= x1) & (place < x2)
        share = (x2 - x1) * (y2 - y1) / SIZE**2
        sums["mask"] = sums["mask"] + (loss * rows[:, None] * columns).mean() / share
    logits = output.class_logits[0]
    sums["class"] = F.binary_cross_entropy_with_logits(logits, wanted, kept, reduction="sum")
    score_sum = sum(score for _, score in scores.values())
    return sums, {"box": score_sum, "class": score_sum, "dfl": score_sum, "mask": len(scores)}
