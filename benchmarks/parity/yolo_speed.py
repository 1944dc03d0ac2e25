"""Speed of training steps and predictions of YOLOSeg and the original, alternating in one process.

Run with the Python of the throw-away environment (README.md) from the repository's root:
`python benchmarks/parity/yolo_speed.py [--threads T] [--repeats R] [--only WORD]`. The median of
R rounds counts. Memory is measured in a separate process: the growth of the peak after one step on
a small image, and the whole peak. Only public functions of the original are called.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.backbones.csp import ScaleName
from models.seg.yolo import YOLOSeg
from structures import SegBatch

CLASSES = 80


class Case(NamedTuple):
    """A training step: scale, side of the images, objects per image, number of images."""

    scale: ScaleName
    side: int
    objects: int
    num_images: int = 4

    def __str__(self) -> str:
        return f"step {self.scale}, {self.side} px, {self.objects} objects"


STEPS = [Case("n", 320, 10), Case("n", 640, 10), Case("s", 320, 10)]
STEPS += [Case("n", 512, objects) for objects in (5, 40, 100, 200)]
PREDICTED, DETECTIONS = (480, 640), 100
Function = Callable[[], Any]


def scene(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return noise images, boxes (M, 4), classes and stride-4 masks (M, h, w) of ellipses."""
    generator = torch.Generator().manual_seed(0)
    total = case.num_images * case.objects
    images = torch.rand(case.num_images, 3, case.side, case.side, generator=generator)
    largest = 0.4 if case.objects <= 10 else 0.15  # more objects are smaller
    size = (0.04 + (largest - 0.04) * torch.rand(total, 2, generator=generator)) * case.side
    corner = torch.rand(total, 2, generator=generator) * (case.side - size)
    boxes = torch.cat([corner, corner + size], dim=1)
    axis = torch.arange(2.0, case.side, 4)
    across, down = ((2 * axis - boxes[:, [k]] - boxes[:, [k + 2]]) / size[:, [k]] for k in (0, 1))
    masks = down[:, :, None] ** 2 + across[:, None, :] ** 2 <= 1
    return images, boxes, torch.randint(0, CLASSES, (total,), generator=generator), masks


def our_step(case: Case) -> Function:
    """Return a training step of ours: forward, losses, backward."""
    torch.manual_seed(0)
    model = YOLOSeg(case.scale, CLASSES).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images, boxes, labels, masks = scene(case)
    sizes = torch.tensor([[case.side] * 2] * case.num_images)
    batch = SegBatch(
        images=images,
        sizes=sizes,
        boxes=boxes,
        labels=labels,
        masks=masks,
        counts=torch.tensor([case.objects] * case.num_images),
        crowd=torch.zeros(len(boxes), dtype=torch.bool),
        index=torch.arange(case.num_images),
        original_sizes=sizes,
        mask_stride=4,
    )

    def step() -> None:
        model.zero_grad()
        terms = model.losses(batch)
        (
            7.5 * (terms["box"] + terms["mask"]) + 0.5 * terms["class"] + 1.5 * terms["dfl"]
        ).backward()

    return step


def original_step(case: Case) -> Function:
    """Return the same step of the original."""
    from ultralytics.nn.tasks import SegmentationModel
    from ultralytics.utils import DEFAULT_CFG

    torch.manual_seed(0)
    model = SegmentationModel(f"yolov8{case.scale}-seg.yaml", nc=CLASSES, verbose=False).train()
    model.args = DEFAULT_CFG
    images, boxes, labels, masks = scene(case)
    image = torch.arange(case.num_images).repeat_interleave(case.objects)
    index = torch.zeros(case.num_images, *masks.shape[1:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    for row in area.argsort(descending=True).tolist():
        index[row // case.objects][masks[row]] = row % case.objects + 1
    batch = {
        "img": images,
        "bboxes": torch.cat([boxes[:, :2] + boxes[:, 2:], 2 * (boxes[:, 2:] - boxes[:, :2])], 1)
        / (2 * case.side),
        "cls": labels.float().view(-1, 1),
        "batch_idx": image.float(),
        "masks": index,
    }

    def step() -> None:
        model.zero_grad()
        total, _ = model(dict(batch))
        total.sum().backward()

    return step


def predictions() -> tuple[Function, Function]:
    """Return functions that predict an image with 100 detections as run lengths at its own size.

    Both networks have the same random weights, and the threshold lets many more candidates pass
    than the 100 best that are kept.
    """
    import pycocotools.mask as coco_mask
    from ultralytics import YOLO
    from ultralytics.nn.tasks import SegmentationModel

    from benchmarks.parity.yolo_recipe import fill
    from models.seg.yolo.names import convert_name

    whole = YOLO("yolov8n-seg.yaml", task="segment")
    original = SegmentationModel("yolov8n-seg.yaml", nc=CLASSES, verbose=False)
    fill(original.state_dict(), "speed")
    weights = original.state_dict()
    whole.model = original
    height, width = PREDICTED
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    images = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None] / 255
    sizes = torch.tensor([[height, width]])
    none = torch.zeros(0, dtype=torch.long)
    batch = SegBatch(
        images=images,
        sizes=sizes,
        boxes=torch.zeros(0, 4),
        labels=none,
        masks=torch.zeros(0, height, width, dtype=torch.bool),
        counts=torch.zeros(1, dtype=torch.long),
        crowd=none.bool(),
        index=torch.zeros(1, dtype=torch.long),
        original_sizes=sizes,
    )
    probe = YOLOSeg("n", CLASSES).eval()
    probe.load_state_dict({ours: v for k, v in weights.items() if (ours := convert_name(k))})
    with torch.no_grad():
        best = probe(images).class_logits[0].amax(dim=1).sigmoid()
    threshold = float(best.sort(descending=True).values[1000])
    ours = YOLOSeg("n", CLASSES, score_thresh=threshold, max_dets=DETECTIONS).eval()
    ours.load_state_dict(probe.state_dict())
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def our_prediction() -> int:
        return len(ours.predict(batch)[0])

    def their_prediction() -> int:
        found = whole.predict(
            image, conf=threshold, iou=0.7, max_det=DETECTIONS, retina_masks=True, verbose=False,
            device="cpu",
        )[0]  # fmt: skip
        dense = found.masks.data.numpy().astype(np.uint8)
        coco_mask.encode(np.asfortranarray(dense.transpose(1, 2, 0)))
        return len(dense)

    counts = our_prediction(), their_prediction()
    print(f"detections of ours and of the original: {counts}")
    return our_prediction, their_prediction


def in_turn(repeats: int, *functions: Function) -> list[float]:
    """Return the median time in seconds of each function, called in turn after two warm-ups."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 2):
        for row, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            function()
            row.append(time.perf_counter() - start)
    return [statistics.median(row[2:]) for row in times]


def _resident(line: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(line + ":")[2].split()[0]) * 1024


def peak_of(side: str, number: int) -> tuple[int, int]:
    """Return the peak resident set of three steps in bytes: above the start, and in total.

    Before the start, one step on a small image is run and freed memory is returned to the system.
    The original's constructor runs its network and ours does not, so otherwise memory that the
    libraries allocate once (code pages, kernels, free heap blocks) would count on one side only.
    """
    make = {"ours": our_step, "original": original_step}[side]
    step = make(STEPS[number])
    make(Case(STEPS[number].scale, 128, 2, num_images=1))()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _resident("VmRSS")
    for _ in range(3):
        step()
    peak = _resident("VmHWM")
    return peak - before, peak


def _measured(side: str, number: int, threads: int) -> list[float]:
    words = [sys.executable, "-W", "ignore", __file__, "--memory", side, str(number)]
    words += ["--threads", str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [count / 2**20 for count in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """Print seconds, MiB and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--memory", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    if args.memory:
        print(json.dumps(peak_of(args.memory[0], int(args.memory[1]))))
        return
    import ultralytics

    print(
        f"ultralytics {ultralytics.__version__}, torch {torch.__version__}, {args.threads} threads"
    )
    print(f"{'case':32} {'segmil':>9} {'original':>9} {'ratio':>6}   MiB above the start, in total")
    for number, case in enumerate(STEPS):
        if args.only not in str(case):
            continue
        ours, theirs = in_turn(args.repeats, our_step(case), original_step(case))
        sides = [_measured(side, number, args.threads) for side in ("ours", "original")]
        memory = [f"{a:.0f}, {b:.0f} ({a / b:.2f})" for a, b in zip(*sides, strict=True)]
        print(f"{case!s:32} {ours:8.3f}s {theirs:8.3f}s {ours / theirs:6.2f}   "
              f"{'; '.join(memory)}", flush=True)  # fmt: skip
    name = f"predict n, {PREDICTED[1]} px, {DETECTIONS} masks"
    if args.only in name:
        ours, theirs = in_turn(args.repeats, *predictions())
        print(f"{name:32} {ours:8.3f}s {theirs:8.3f}s {ours / theirs:6.2f}")


if __name__ == "__main__":
    main()
