"""Detections of unlabelled objects as further labels of a training set.

The detections of an image are looked at from the best score down. One becomes a label if its score
reaches a threshold, its mask overlaps no known object, and it overlaps no label made before it; a
known crowd region counts by the share of the detection that it covers. This is the second stage of
SWORD (arXiv 2308.04206) and of the methods that learn pseudo-labels from other sources; the values
are those of SOS (A606). Objects of novel categories are no argument, so they cannot matter.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.seg.matching import overlaps, regions
from formats.coco import pseudo
from formats.coco.results import Row, image_sizes
from structures import rle

OUTCOMES = ("pseudo_labels", "below_score", "on_known", "repeated", "over_cap", "empty")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a detection must be to become a label.

    Attributes:
        score: smallest score.
        max_iou: largest mask IoU with a known object.
        nms: largest mask IoU with a label made before.
        per_image: largest number of labels of an image.
    """

    score: float = 0.9
    max_iou: float = 0.2
    nms: float = 0.2
    per_image: int = 10


def add_pseudo_labels(
    known: Mapping[str, Any], rows: Sequence[Row], rules: Rules
) -> tuple[dict[str, Any], Counter[str]]:
    """Return a COCO file with the pseudo-labels, and what became of the detections.

    Args:
        known: content of a COCO instances file with the annotations of the known categories alone.
        rows: COCO results rows with masks, whatever their categories.
        rules: which of them become labels.

    Returns:
        ``known`` with the category ``pseudo`` and its annotations behind the others, which have
        ``is_pseudo`` 1 and the ``score`` of the detection; and the number of rows by ``OUTCOMES``.

    Raises:
        ValueError: a row or a known annotation has no mask.
    """
    objects: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in known["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["image_id"]].append(row)
    outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
    chosen: list[Row] = []
    for image, size in image_sizes(known).items():
        chosen += _choose(found[image], objects[image], size, rules, outcomes)
    categories = known["categories"]
    category = pseudo.category_id(categories)
    if category is None:
        category = max((int(c["id"]) for c in categories), default=0) + 1
        categories = [*categories, {"id": category, "name": pseudo.NAME}]
    first = max((int(a["id"]) for a in known["annotations"]), default=0) + 1
    made = [_label(row, first + number, category) for number, row in enumerate(chosen)]
    content = {**known, "annotations": [*known["annotations"], *made], "categories": categories}
    return content, outcomes


def _choose(
    rows: Sequence[Row],
    objects: list[Mapping[str, Any]],
    size: tuple[int, int],
    rules: Rules,
    outcomes: Counter[str],
) -> list[Row]:
    """Return the rows of one image that become labels, the best first, and count all."""
    from pycocotools import mask as coco_mask

    good = [row for row in rows if float(row["score"]) >= rules.score]
    good.sort(key=lambda row: -float(row["score"]))
    outcomes["below_score"] += len(rows) - len(good)
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in objects], dtype=bool)
    near = overlaps(objects, good, crowd, size, "segm").max(axis=1, initial=0)
    chosen: list[Row] = []
    shapes: list[Any] = []
    for row, shape, covered in zip(good, regions(good, size, "segm"), near, strict=True):
        outcome = "pseudo_labels"
        if not coco_mask.area(shape):
            outcome = "empty"
        elif covered > rules.max_iou:
            outcome = "on_known"
        elif shapes and coco_mask.iou([shape], shapes, [False] * len(shapes)).max() > rules.nms:
            outcome = "repeated"
        elif len(chosen) == rules.per_image:
            outcome = "over_cap"
        else:
            chosen.append({**row, "segmentation": shape})
            shapes.append(shape)
        outcomes[outcome] += 1
    return chosen


def _label(row: Row, number: int, category: int) -> dict[str, Any]:
    """Return the annotation of a chosen detection; area and box are those of its mask."""
    size, counts = row["segmentation"]["size"], row["segmentation"]["counts"]
    runs = rle.from_bytes(counts)
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    left, top, right, bottom = rle.bounding_box(runs, (size[0], size[1]))
    return {
        "id": number,
        "image_id": row["image_id"],
        "category_id": category,
        "segmentation": {"size": list(size), "counts": text},
        "area": int(rle.area(runs)),
        "bbox": [left, top, right - left, bottom - top],
        "iscrowd": 0,
        "score": float(row["score"]),
        "is_pseudo": 1,
    }
