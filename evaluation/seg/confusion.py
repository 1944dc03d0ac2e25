"""Confusion matrix of instance segmentation, with the background as an additional class.

Detections and ground truths of an image are paired regardless of their classes: in order of score,
each detection is paired with the free ground truth of highest overlap, if the overlap reaches the
threshold.  # A76
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.seg.coco_backends import FloatArray, IouType
from evaluation.seg.matching import overlaps
from formats.coco.results import Row, image_sizes

IntArray = npt.NDArray[np.int64]


class Pairing(NamedTuple):
    """Pairs of detections and ground truths of one image.

    Attributes:
        truth: (P,) indices of the paired ground truths.
        found: (P,) indices of the paired detections.
        overlap: (P,) IoU of each pair.
        missed: indices of unpaired ground truths, without crowd regions.
        wrong: indices of unpaired detections, without detections inside a crowd region.
    """

    truth: IntArray
    found: IntArray
    overlap: FloatArray
    missed: IntArray
    wrong: IntArray


def pair_detections(
    truth: Sequence[Mapping[str, Any]],
    found: Sequence[Row],
    size: tuple[int, int],
    iou: float = 0.5,
    iou_type: IouType = "segm",
) -> Pairing:
    """Pair the detections of one image with its ground truths, regardless of their classes.

    Args:
        truth: COCO annotations of the image.
        found: COCO results rows of the image.
        size: (height, width).
        iou: a pair needs at least this overlap, in (0, 1].
        iou_type: overlap of masks or of boxes.
    """
    crowd = np.array([bool(t.get("iscrowd", 0)) for t in truth], dtype=bool)
    overlap = overlaps(list(truth), list(found), crowd, size, iou_type)
    needed = min(iou, 1 - 1e-10)
    free, pairs, wrong = ~crowd, [], []
    for number in sorted(range(len(found)), key=lambda k: -found[k]["score"]):
        among = np.where(free, overlap[number], -1.0)
        best = int(among.argmax()) if among.size else -1
        if best >= 0 and among[best] >= needed:
            free[best] = False
            pairs.append((best, number))
        elif not (overlap[number, crowd] >= needed).any():
            wrong.append(number)
    taken = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Pairing(
        truth=taken[:, 0],
        found=taken[:, 1],
        overlap=overlap[taken[:, 1], taken[:, 0]],
        missed=np.flatnonzero(free),
        wrong=np.array(wrong, dtype=np.int64),
    )


def detection_confusion(
    ground_truth: Mapping[str, Any],
    results: Sequence[Row],
    score: float = 0.5,
    iou: float = 0.5,
    iou_type: IouType = "segm",
) -> tuple[IntArray, list[str]]:
    """Count pairs of true and predicted class at one confidence.

    Args:
        ground_truth: content of a COCO instances file; images without results count as well.
        results: COCO results rows.
        score: detections below this score are left out.
        iou: a pair needs at least this overlap.
        iou_type: overlap of masks or of boxes.

    Returns:
        (K + 1, K + 1) counts, rows by true class, columns by predicted class, and the K + 1 names
        by ascending category id. The last is the background: its row counts false positives, its
        column counts missed instances.
    """
    categories = sorted((int(c["id"]), str(c["name"])) for c in ground_truth["categories"])
    place = {identifier: k for k, (identifier, _) in enumerate(categories)}
    background, sizes = len(categories), image_sizes(ground_truth)
    truths: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    found: dict[Any, list[Row]] = defaultdict(list)
    for annotation in ground_truth["annotations"]:
        truths[annotation["image_id"]].append(annotation)
    for row in results:
        if row["score"] >= score:
            found[row["image_id"]].append(row)
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    for image_id in truths.keys() | found.keys():
        rows, columns = truths[image_id], found[image_id]
        paired = pair_detections(rows, columns, sizes[image_id], iou, iou_type)
        true = [place[t["category_id"]] for t in rows]
        says = [place[r["category_id"]] for r in columns]
        for t, r in zip(paired.truth.tolist(), paired.found.tolist(), strict=True):
            matrix[true[t], says[r]] += 1
        for t in paired.missed.tolist():
            matrix[true[t], background] += 1
        for r in paired.wrong.tolist():
            matrix[background, says[r]] += 1
    return matrix, [name for _, name in categories] + ["background"]
