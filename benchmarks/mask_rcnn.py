"""Speed of Mask R-CNN against torchvision's: training step, prediction, masks to run lengths.

Run `python benchmarks/mask_rcnn.py [--repeats R]`. Both have the same weights and inputs and
alternate in one process; the best of R runs counts. Only the ratios can be compared between
machines.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import paste_masks_in_image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.ops.masks.paste import paste_to_rle
from models.seg.mask_rcnn import MaskRCNNResNet50FPN
from structures import SegBatch

HEIGHT, WIDTH, CLASSES, OBJECTS = 320, 480, 80, 8


def make_batch(count: int = 2) -> tuple[SegBatch, list[Tensor], list[dict[str, Tensor]]]:
    """Return noise images with rectangles as our batch and as torchvision's input."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, HEIGHT, WIDTH, generator=generator)
    corner = torch.rand(count * OBJECTS, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + 30 + corner.flip(1) / 4], dim=1).floor()
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    labels = torch.randint(0, CLASSES, (len(boxes),), generator=generator)
    sizes = torch.tensor([[HEIGHT, WIDTH]] * count)
    batch = SegBatch(
        images=images,
        sizes=sizes,
        boxes=boxes,
        labels=labels,
        masks=masks,
        counts=torch.tensor([OBJECTS] * count),
        crowd=torch.zeros(len(boxes), dtype=torch.bool),
        index=torch.arange(count),
        original_sizes=sizes,
    )
    parts = [t.split(OBJECTS) for t in (boxes, labels + 1, masks.to(torch.uint8))]
    targets = [{"boxes": b, "labels": y, "masks": m} for b, y, m in zip(*parts, strict=True)]
    return batch, list(images), targets


def best_of(repeats: int, *functions: Callable[[], Any]) -> list[float]:
    """Return the shortest time in seconds of each function, run in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):  # the first round warms up
        for row, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            function()
            row.append(time.perf_counter() - start)
    return [min(row[1:]) for row in times]


def networks() -> tuple[Any, Any]:
    """Return torchvision's network and ours with the same random weights."""
    theirs = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        min_size=HEIGHT,
        max_size=WIDTH,
        box_score_thresh=0.0,
    )
    ours = MaskRCNNResNet50FPN(CLASSES, norm="bn", score_thresh=0.0)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    return theirs, ours


def main() -> int:
    """Print seconds and ratios of the three comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    batch, images, targets = make_batch()
    theirs, ours = networks()

    def their_step() -> None:
        theirs.zero_grad()
        torch.stack(list(theirs(images, targets).values())).sum().backward()

    def our_step() -> None:
        ours.zero_grad()
        torch.stack(list(ours.losses(batch).values())).sum().backward()

    theirs.train()
    ours.train()
    rows = [("training step, 2 images", *best_of(repeats, our_step, their_step))]

    def their_prediction() -> None:
        with torch.no_grad():
            for found in theirs(images):
                dense = (found["masks"][:, 0] >= 0.5).numpy().astype(np.uint8)
                coco_mask.encode(np.asfortranarray(dense.transpose(1, 2, 0)))

    theirs.eval()
    ours.eval()
    times = best_of(repeats, lambda: ours.predict(batch), their_prediction)
    rows.append(("prediction to RLE, 2 images", *times))

    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(100, 2, generator=generator) * torch.tensor([1000.0, 500.0])
    boxes = torch.cat([corner, corner + 50 + torch.rand(100, 2, generator=generator) * 300], dim=1)
    soft = torch.rand(100, 28, 28, generator=generator)

    def their_paste() -> None:
        dense = paste_masks_in_image(soft[:, None], boxes, (800, 1333))[:, 0] >= 0.5
        coco_mask.encode(np.asfortranarray(dense.numpy().astype(np.uint8).transpose(1, 2, 0)))

    times = best_of(repeats, lambda: paste_to_rle(soft, boxes, (800, 1333)), their_paste)
    rows.append(("100 masks to RLE at 800x1333", *times))
    print(f"{'what':32s} {'segmil s':>9s} {'torchvision s':>14s} {'ratio':>6s}")
    for name, mine, other in rows:
        print(f"{name:32s} {mine:9.3f} {other:14.3f} {mine / other:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
