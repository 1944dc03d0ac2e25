"""What `run.py` keeps of a model's predictions in the test scenes beside AP and AR."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.open_world.protocols import Protocol, evaluate_protocol
from evaluation.seg.confusion import pair_detections
from formats.coco.results import read_results
from formats.coco.splits import split_from_record

KNOWN = range(1, 7)  # category ids of the digits 0 to 5
PROTOCOLS: tuple[Protocol, ...] = ("exclude-known", "novel-only", "class-wise", "all")

Content = dict[str, Any]


def ranks(truth: Content, predictions: Path) -> list[float]:
    """Return what the scores of detections say of known objects, novel ones and mistakes.

    A detection finds the object that it is matched to at mask IoU .5, best scores first.

    Args:
        truth: the test scenes as a COCO document.
        predictions: a COCO file of results.

    Returns:
        The shares of known and of novel objects that are found, the median scores of both, and the
        mistakes above the median of the novel ones, an image.
    """
    images = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    objects = _by_image(truth["annotations"])
    found = _by_image(read_results(predictions, {"images": truth["images"]})[0])
    known, novel, wrong = [], [], []
    for image, size in images.items():
        own = objects.get(image, [])
        rows = sorted(found.get(image, []), key=lambda row: -row["score"])
        pairs = pair_detections(own, rows, size, 0.5, "segm")
        for of, by in zip(pairs.truth, pairs.found, strict=True):
            (known if own[of]["category_id"] in KNOWN else novel).append(rows[by]["score"])
        wrong += [rows[by]["score"] for by in pairs.wrong]
    ids = [record["category_id"] for own in objects.values() for record in own]
    count = sum(number in KNOWN for number in ids)
    middle = float(np.median(known)), float(np.median(novel))
    above = float((np.array(wrong) > middle[1]).sum() / len(images))
    return [len(known) / count, len(novel) / (len(ids) - count), *middle, above]


def by_protocol(truth: Content, predictions: Path) -> dict[str, dict[str, float]]:
    """Return the mask scores of novel objects by every protocol."""
    detections, _ = read_results(predictions, {"images": truth["images"]})
    split = split_from_record({"name": "digits 0 to 5", "known": list(KNOWN)}, "study")
    return {
        name: evaluate_protocol(name, truth, detections, split, iou_types=("segm",))
        for name in PROTOCOLS
    }


def _by_image(records: Sequence[Any]) -> dict[Any, list[Any]]:
    grouped: dict[Any, list[Any]] = {}
    for record in records:
        grouped.setdefault(record["image_id"], []).append(record)
    return grouped
