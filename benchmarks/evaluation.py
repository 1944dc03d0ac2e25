"""Speed of COCO scoring against pycocotools and of mask pasting against torchvision.

Run `python benchmarks/evaluation.py [--pictures N] [--detections K] [--repeats R]`. The functions
alternate in one process on the same random data, and the best of R runs counts; only the ratios can
be compared between machines. *Scoring* times our fast and reference backends and pycocotools called
directly, with K detections per image; the metrics of all three must be equal. *Pasting* converts
100 soft masks of 28 x 28 to run lengths at 800 x 1333, against torchvision's paste and pycocotools'
encoder; the memory is the growth of the peak of a forked process (Linux). The exit code is 1 if a
bound is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.seg.coco import evaluate_results
from evaluation.seg.coco_backends import Backend, IouType
from models.ops.masks.paste import paste_to_rle
from structures import rle

BOUND_SCORING, BOUND_PASTE, BOUND_PASTE_MEMORY = 0.10, 0.12, 0.05
HEIGHT, WIDTH, CLASSES = 480, 640, 20


def draw_set(
    images: int, detections: int, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth with 7 ellipses per image on average, and results."""
    rng = np.random.default_rng(seed)
    truths: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for image_id in range(1, images + 1):
        shapes = [_ellipse(rng) for _ in range(rng.integers(0, 15))]
        labels = rng.integers(1, CLASSES + 1, size=len(shapes))
        for shape, label in zip(shapes, labels.tolist(), strict=True):
            record = _record(image_id, label, shape)
            mask = rle.from_bytes(record["segmentation"]["counts"])
            area = float(rle.area(mask))
            truths.append({**record, "id": len(truths) + 1, "area": area, "iscrowd": 0})
        for _ in range(detections):
            near = shapes and rng.random() < 0.7
            k = int(rng.integers(len(shapes))) if near else 0
            shape = shapes[k] + rng.normal(scale=4, size=4) if near else _ellipse(rng)
            label = int(labels[k]) if near else int(rng.integers(1, CLASSES + 1))
            rows.append({**_record(image_id, label, shape), "score": float(rng.random())})
    ground_truth = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)],
        "annotations": truths,
    }
    return ground_truth, rows


def _ellipse(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Centre x, y and half axes."""
    return np.array([rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT), *rng.uniform(6, 90, size=2)])


def _record(
    image_id: int, label: int, shape: np.ndarray[Any, np.dtype[np.float64]]
) -> dict[str, Any]:
    x, y = np.clip(shape[:2], 0, (WIDTH, HEIGHT))  # a moved ellipse may be outside the image
    a, b = np.abs(shape[2:]) + 2
    left, top = max(int(x - a), 0), max(int(y - b), 0)
    rows, columns = np.mgrid[top : min(int(y + b) + 1, HEIGHT), left : min(int(x + a) + 1, WIDTH)]
    inside = ((columns + 0.5 - x) / a) ** 2 + ((rows + 0.5 - y) / b) ** 2 <= 1
    runs = rle.encode_window(inside, top, left, (HEIGHT, WIDTH))
    x1, y1, x2, y2 = rle.bounding_box(runs, (HEIGHT, WIDTH))
    return {
        "image_id": image_id,
        "category_id": label,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": rle.to_bytes(runs).decode()},
    }


def call_pycocotools(
    ground_truth: dict[str, Any], rows: list[dict[str, Any]], iou_type: str
) -> list[float]:
    """Return the twelve statistics of pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    other = "bbox" if iou_type == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth
        truth.createIndex()
        found = truth.loadRes([{k: v for k, v in row.items() if k != other} for row in rows])
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def call_ours(
    ground_truth: dict[str, Any], rows: list[dict[str, Any]], iou_type: IouType, backend: Backend
) -> list[float]:
    """Return our twelve metrics in the same order."""
    scores = evaluate_results(ground_truth, rows, iou_types=(iou_type,), backend=backend)
    return list(scores.metrics.values())


def score(truth: dict[str, Any], rows: list[dict[str, Any]], repeats: int) -> bool:
    """Print seconds and ratios for boxes and masks; return whether the bound is met."""
    held = True
    print(f"{'':6}{'pycocotools':>14}{'ours, reference':>18}{'ours, fast':>14}{'ratio':>8}")
    kinds: tuple[IouType, ...] = ("bbox", "segm")
    for iou_type in kinds:
        calls: list[Callable[[dict[str, Any]], list[float]]] = [
            partial(call_pycocotools, rows=rows, iou_type=iou_type),
            partial(call_ours, rows=rows, iou_type=iou_type, backend="pycocotools"),
            partial(call_ours, rows=rows, iou_type=iou_type, backend="fast"),
        ]
        best = [math.inf] * len(calls)
        for _ in range(repeats):
            values = []
            for number, call in enumerate(calls):
                data = copy.deepcopy(truth)  # the library writes into its ground truth
                start = time.perf_counter()
                values.append(call(data))
                best[number] = min(best[number], time.perf_counter() - start)
            for ours in values[1:]:
                np.testing.assert_allclose(ours, values[0], rtol=0, atol=1e-9)
        seconds = f"{best[0]:>12.3f} s{best[1]:>16.3f} s{best[2]:>12.3f} s"
        held &= best[2] / best[0] <= BOUND_SCORING
        print(f"{iou_type:6}{seconds}{best[2] / best[0]:8.3f}   bound {BOUND_SCORING}")
    return held


def soft_masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 100 soft masks and their boxes in an image of 800 x 1333."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(100, 2, generator=generator) * torch.tensor([1000.0, 500.0])
    size = 50 + torch.rand(100, 2, generator=generator) * 300
    return torch.rand(100, 28, 28, generator=generator), torch.cat([corner, corner + size], dim=1)


def paste_ours() -> None:
    """Paste and encode masks with our function."""
    paste_to_rle(*soft_masks(), (800, 1333))


def paste_torchvision() -> None:
    """Paste all masks at full size with torchvision and encode them with pycocotools."""
    import pycocotools.mask as coco_mask
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    soft, boxes = soft_masks()
    dense = paste_masks_in_image(soft[:, None], boxes, (800, 1333))[:, 0] >= 0.5
    coco_mask.encode(np.asfortranarray(dense.numpy().astype(np.uint8).transpose(1, 2, 0)))


def _growth(call: Callable[[], None], answer: Any) -> None:
    call()  # lazy imports and thread pools
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    answer.send(_status("VmHWM") - before)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(name)).split()[1]) / 1024


def memory_of(call: Callable[[], None]) -> float:
    """Return the MiB by which a second call raises the peak memory of a forked process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_growth, args=(call, sender))
    process.start()
    grown: float = receiver.recv()
    process.join()
    return grown


def paste(repeats: int) -> bool:
    """Print time and memory of pasting; return whether both bounds are met."""
    memory = [memory_of(call) for call in (paste_ours, paste_torchvision)]
    best = [math.inf, math.inf]
    for _ in range(repeats + 1):
        for number, call in enumerate((paste_ours, paste_torchvision)):
            start = time.perf_counter()
            call()
            best[number] = min(best[number], time.perf_counter() - start)
    held = True
    rows = (("s", best, BOUND_PASTE), ("MiB", memory, BOUND_PASTE_MEMORY))
    for unit, (ours, theirs), bound in rows:
        held &= ours / theirs <= bound
        print(
            f"100 masks at 800 x 1333: ours {ours:.3f} {unit}, torchvision {theirs:.3f} {unit}, "
            f"ratio {ours / theirs:.3f}   bound {bound}"
        )
    return held


def main() -> int:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # before the fork
    held = paste(args.repeats)
    truth, rows = draw_set(args.pictures, args.detections, args.seed)
    print(f"{args.pictures} images, {len(truth['annotations'])} objects, {len(rows)} detections")
    held &= score(truth, rows, args.repeats)
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
