"""Speed of the protocol exclude-known against a subclass of pycocotools' evaluation.

Run `python benchmarks/open_world/protocols.py [--repeats R]`: 100 images with 1 500 detections and
12 objects each, half of the detections near an object. Both evaluate in turn, the median of the
ratios counts, and the arrays have to be equal. The subclass marks known objects as ignored and
drops what ended on one of them; it is the one that the tests compare with.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evaluation.open_world.protocols import CAPS, evaluate_protocol
from evaluation.seg.coco_scores import KIND
from formats.coco.splits import CategorySplit
from tests.support.open_world import coco_arrays, mean_of

HEIGHT, WIDTH, OBJECTS, CATEGORIES, KNOWN = 480, 640, 12, 8, (0, 1, 2, 3)


def scenes(images: int, detections: int, seed: int = 0) -> tuple[dict[str, Any], list[Any]]:
    """Return ground truth and results rows of random boxes, whose masks are ellipses."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": n, "height": HEIGHT, "width": WIDTH} for n in range(images)],
        "categories": [{"id": n, "name": str(n)} for n in range(CATEGORIES)],
        "annotations": [],
    }
    rows = []
    for image in range(images):
        objects = _boxes(rng, OBJECTS)
        chosen = objects[rng.integers(OBJECTS, size=detections // 2)]
        moved = chosen * (1 + rng.normal(0, 0.1, chosen.shape)) + rng.normal(0, 3, chosen.shape)
        found = np.concatenate([moved, _boxes(rng, detections - len(moved))]).clip(2, WIDTH - 2)
        for box, category in zip(objects, rng.integers(CATEGORIES, size=OBJECTS), strict=True):
            mask = _mask(box)
            truth["annotations"].append(
                {
                    **{"id": len(truth["annotations"]) + 1, "image_id": image, "iscrowd": 0},
                    **{"category_id": int(category), "bbox": box.tolist(), "segmentation": mask},
                    "area": float(coco_mask.area(mask)),
                }
            )
        for box, score in zip(found, rng.random(detections), strict=True):
            row = {"image_id": image, "category_id": 0, "score": float(score)}
            rows.append(row | {"bbox": box.tolist(), "segmentation": _mask(box)})
    return truth, rows


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    side = rng.uniform(20, 200, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - side)
    return np.concatenate([corner, side], axis=1)


def _mask(box: Any) -> Any:
    x, y, w, h = box
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([x + w / 2 * (1 + np.cos(angle)), y + h / 2 * (1 + np.sin(angle))], axis=1)
    return coco_mask.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)[0]


def main() -> int:
    """Print seconds and ratios; fail where the numbers differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--detections", type=int, default=1500)
    args = parser.parse_args()
    truth, rows = scenes(args.images, args.detections)
    split = CategorySplit("ids", KNOWN)
    for kind in ("bbox", "segm"):
        ours, theirs = [], []
        for _ in range(args.repeats):
            start = time.perf_counter()
            found = evaluate_protocol("exclude-known", truth, rows, split, iou_types=[kind])
            middle = time.perf_counter()
            precision, recall = coco_arrays(truth, rows, kind, CAPS, KNOWN)
            ours.append(middle - start)
            theirs.append(time.perf_counter() - middle)
        wanted = {f"{KIND[kind]}_ar_{c}": recall[:, 0, m] for m, c in enumerate(CAPS)}
        wanted[f"{KIND[kind]}_map"] = precision[:, :, 0, CAPS.index(100)]
        gap = max(abs(found[name] - mean_of(value)) for name, value in wanted.items())
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"{kind}: {statistics.median(ours):.2f} s, pycocotools {statistics.median(theirs):.2f} "
            f"s, ratio {ratio:.3f}, largest difference {gap:.1e}"
        )
        if gap > 1e-12:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
