"""Time of COCO scoring: our fast and reference backends against pycocotools called directly.

Run `python benchmarks/evaluation.py [--pictures N] [--repeats R]`. The three are timed in turn in
one process on the same drawn data, the best of R counts, and the ratios are what to compare between
machines. The metrics of all three must be equal, or the run stops.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.coco import evaluate_results
from evaluation.coco_backends import Backend, IouType
from structures import rle

HEIGHT, WIDTH, CLASSES = 480, 640, 20


def draw_set(pictures: int, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth and results: per picture 7 ellipses on average and 30 detections."""
    rng = np.random.default_rng(seed)
    truths: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for image_id in range(1, pictures + 1):
        shapes = [_ellipse(rng) for _ in range(rng.integers(0, 15))]
        labels = rng.integers(1, CLASSES + 1, size=len(shapes))
        for shape, label in zip(shapes, labels.tolist(), strict=True):
            record = _record(image_id, label, shape)
            mask = rle.from_bytes(record["segmentation"]["counts"])
            area = float(rle.area(mask))
            truths.append({**record, "id": len(truths) + 1, "area": area, "iscrowd": 0})
        for _ in range(30):
            near = shapes and rng.random() < 0.7
            k = int(rng.integers(len(shapes))) if near else 0
            shape = shapes[k] + rng.normal(scale=4, size=4) if near else _ellipse(rng)
            label = int(labels[k]) if near else int(rng.integers(1, CLASSES + 1))
            rows.append({**_record(image_id, label, shape), "score": float(rng.random())})
    ground_truth = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, pictures + 1)],
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
    x, y, a, b = shape[0], shape[1], abs(shape[2]) + 2, abs(shape[3]) + 2
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
    """Return the twelve statistics as a user of the library gets them."""
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


def main() -> None:
    """Print seconds and ratios for boxes and masks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    truth, rows = draw_set(args.pictures, args.seed)
    print(f"{args.pictures} pictures, {len(truth['annotations'])} objects, {len(rows)} detections")
    print(f"{'':6}{'pycocotools':>14}{'ours, reference':>18}{'ours, fast':>14}{'ratio':>10}")
    kinds: tuple[IouType, ...] = ("bbox", "segm")
    for iou_type in kinds:
        calls: list[Callable[[dict[str, Any]], list[float]]] = [
            partial(call_pycocotools, rows=rows, iou_type=iou_type),
            partial(call_ours, rows=rows, iou_type=iou_type, backend="pycocotools"),
            partial(call_ours, rows=rows, iou_type=iou_type, backend="fast"),
        ]
        best = [math.inf] * len(calls)
        for _ in range(args.repeats):
            values = []
            for number, call in enumerate(calls):
                data = copy.deepcopy(truth)  # the library writes into its ground truth
                start = time.perf_counter()
                values.append(call(data))
                best[number] = min(best[number], time.perf_counter() - start)
            for ours in values[1:]:
                np.testing.assert_allclose(ours, values[0], rtol=0, atol=1e-9)
        seconds = f"{best[0]:>12.3f} s{best[1]:>16.3f} s{best[2]:>12.3f} s"
        print(f"{iou_type:6}{seconds}{best[0] / best[2]:>9.1f}x")


if __name__ == "__main__":
    main()
