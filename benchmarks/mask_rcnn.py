"""Speed of Mask R-CNN against torchvision's: training step, prediction, masks to run lengths.

Run `python benchmarks/mask_rcnn.py [--repeats R] [--threads T] [--only step|predict|paste]`. All
have the same weights and inputs and alternate in one process; the median of the ratios of R rounds
counts. Only the ratios can be compared between machines. torchvision's model is as torchvision
builds it, in single precision. A bfloat16 step is timed where the processor has units for it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
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
from models.ops.precision import has_bfloat16_units
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


def in_turn(repeats: int, *functions: Callable[[], Any]) -> list[list[float]]:
    """Return the seconds of each function in each of R rounds; a round calls all in turn."""
    rounds = []
    for _ in range(repeats + 1):  # the first warms up
        row = []
        for function in functions:
            start = time.perf_counter()
            function()
            row.append(time.perf_counter() - start)
        rounds.append(row)
    return [list(column) for column in zip(*rounds[1:], strict=True)]


def show(names: Sequence[str], times: Sequence[Sequence[float]]) -> None:
    """Print median seconds and the median ratio of each round; the last column is the peer's."""
    for name, mine in zip(names, times, strict=False):
        ratios = [a / b for a, b in zip(mine, times[-1], strict=True)]
        print(
            f"{name:44s} {statistics.median(mine):9.3f} {statistics.median(times[-1]):9.3f} "
            f"{statistics.median(ratios):6.2f}  {min(ratios):.2f} to {max(ratios):.2f}",
            flush=True,
        )


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


def step_of(model: Any, batch: SegBatch) -> Callable[[], None]:
    """Return a training step of ours: forward, losses, backward."""

    def step() -> None:
        model.zero_grad()
        torch.stack(list(model.losses(batch).values())).sum().backward()

    return step


def time_steps(repeats: int) -> None:
    """Compare training steps."""
    batch, images, targets = make_batch()
    theirs, ours = networks()
    last = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    for model in (theirs, ours, last):
        model.train()

    def their_step() -> None:
        theirs.zero_grad()
        torch.stack(list(theirs(images, targets).values())).sum().backward()

    names = ["training step", "training step, channels_last"]
    steps = [step_of(ours, batch), step_of(last, batch)]
    if has_bfloat16_units():
        half = copy.deepcopy(last)
        names.append("training step, channels_last, bfloat16")
        steps.append(torch.autocast("cpu", torch.bfloat16)(step_of(half, batch)))
    show(names, in_turn(repeats, *steps, their_step))


def time_predictions(repeats: int) -> None:
    """Compare predictions up to run lengths, at a threshold that lets every candidate pass."""
    batch, images, _ = make_batch()
    theirs, ours = networks()
    last = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    for model in (theirs, ours, last):
        model.eval()

    def their_prediction() -> None:
        with torch.no_grad():
            for found in theirs(images):
                dense = (found["masks"][:, 0] >= 0.5).numpy().astype(np.uint8)
                coco_mask.encode(np.asfortranarray(dense.transpose(1, 2, 0)))

    functions = [lambda: ours.predict(batch), lambda: last.predict(batch), their_prediction]
    show(["prediction to RLE", "prediction to RLE, channels_last"], in_turn(repeats, *functions))


def time_pasting(repeats: int) -> None:
    """Compare the encoding of 100 soft masks."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(100, 2, generator=generator) * torch.tensor([1000.0, 500.0])
    boxes = torch.cat([corner, corner + 50 + torch.rand(100, 2, generator=generator) * 300], dim=1)
    soft = torch.rand(100, 28, 28, generator=generator)

    def their_paste() -> None:
        dense = paste_masks_in_image(soft[:, None], boxes, (800, 1333))[:, 0] >= 0.5
        coco_mask.encode(np.asfortranarray(dense.numpy().astype(np.uint8).transpose(1, 2, 0)))

    functions = [lambda: paste_to_rle(soft, boxes, (800, 1333)), their_paste]
    show(["100 masks to RLE at 800x1333"], in_turn(repeats, *functions))


CASES = {"step": time_steps, "predict": time_predictions, "paste": time_pasting}


def main() -> int:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=CASES, help="one comparison instead of all")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, 2 images of {HEIGHT} x {WIDTH}")
    print(f"{'what':44s} {'segmil s':>9s} {'peer s':>9s} {'ratio':>6s}  of the rounds")
    for name, case in CASES.items():
        if args.only in (None, name):
            case(args.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
