"""Greedy matching of detections to ground truth at one overlap threshold.

Per image and class, in order of score, each detection is matched to the free ground truth of
highest overlap, if the overlap reaches the threshold. An unmatched detection inside a crowd region
(intersection over the area of the detection) is not counted; any other is a false positive.
Removing detections below a score changes no match above it, so one pass serves every confidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.seg.coco_backends import FloatArray, IouType
from formats.coco.results import Row, image_sizes


class Matched(NamedTuple):
    """The matches of one class in one image.

    Attributes:
        detections: (score, correct) of each detection by descending score, without detections in
            crowd regions.
        positives: number of ground truths, without crowd regions.
    """

    detections: list[tuple[float, bool]]
    positives: int


def match_detections(
    ground_truth: Mapping[str, Any],
    results: Sequence[Row],
    iou: float,
    iou_type: IouType,
    max_dets: int,
) -> dict[tuple[Any, Any], Matched]:
    """Match every detection by image and class.

    Args:
        ground_truth: content of a COCO instances file.
        results: COCO results rows that match it (see ``formats.coco.results.check_results``).
        iou: a match needs at least this overlap, in (0, 1].
        iou_type: overlap of masks (``segm``) or of boxes (``bbox``).
        max_dets: detections kept per image over all classes, by score; ties keep their order.

    Returns:
        The matches by (image id, category id), for pairs with a ground truth or a detection.

    Raises:
        ValueError: a record lacks the key that ``iou_type`` needs.
    """
    sizes = image_sizes(ground_truth)
    truths: dict[tuple[Any, Any], list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in ground_truth["annotations"]:
        truths[annotation["image_id"], annotation["category_id"]].append(annotation)
    by_image: dict[Any, list[Row]] = defaultdict(list)
    for row in results:
        by_image[row["image_id"]].append(row)
    found: dict[tuple[Any, Any], list[Row]] = defaultdict(list)
    for image_id, rows in by_image.items():
        for row in sorted(rows, key=lambda r: -r["score"])[:max_dets]:
            found[image_id, row["category_id"]].append(row)
    return {
        key: _match(truths.get(key, []), found.get(key, []), sizes[key[0]], iou, iou_type)
        for key in truths.keys() | found.keys()
    }


def _match(
    truth: list[Mapping[str, Any]],
    found: list[Row],
    size: tuple[int, int],
    iou: float,
    iou_type: IouType,
) -> Matched:
    """Match the detections of one class in one image, sorted by descending score."""
    crowd = np.array([bool(t.get("iscrowd", 0)) for t in truth], dtype=bool)
    overlap = overlaps(truth, found, crowd, size, iou_type)
    needed = min(iou, 1 - 1e-10)  # as in the COCO API, so that rounding cannot prevent IoU 1.0
    free = ~crowd
    detections = []
    for number, row in enumerate(found):
        among = np.where(free, overlap[number], -1.0)
        best = int(among.argmax()) if among.size else -1
        if best >= 0 and among[best] >= needed:
            free[best] = False
            detections.append((float(row["score"]), True))
        elif not (overlap[number, crowd] >= needed).any():
            detections.append((float(row["score"]), False))
    return Matched(detections, int((~crowd).sum()))


def overlaps(
    truth: list[Mapping[str, Any]],
    found: list[Row],
    crowd: npt.NDArray[np.bool_],
    size: tuple[int, int],
    iou_type: IouType,
) -> FloatArray:
    """Return (detections, truths) IoU; intersection over detection area for crowd regions."""
    from pycocotools import mask as coco_mask

    if not truth or not found:
        return np.zeros((len(found), len(truth)))
    shapes = regions((*found, *truth), size, iou_type)
    overlap = coco_mask.iou(shapes[: len(found)], shapes[len(found) :], crowd.tolist())
    return np.asarray(overlap, dtype=np.float64)


def regions(
    records: Sequence[Mapping[str, Any]], size: tuple[int, int], iou_type: IouType
) -> list[Any]:
    """Return the boxes or the compressed masks of annotations or results, for pycocotools.

    Args:
        records: annotations or results of one image.
        size: (height, width) of the image.
        iou_type: masks (``segm``) or boxes (``bbox``).

    Raises:
        ValueError: a record lacks the key that ``iou_type`` needs.
    """
    key = "segmentation" if iou_type == "segm" else "bbox"
    for record in records:
        if not record.get(key):
            raise ValueError(
                f"an annotation or a result of image {record['image_id']} has no {key!r}, which "
                f"iou_type={iou_type!r} needs"
            )
    if iou_type == "bbox":
        return [list(map(float, record["bbox"])) for record in records]
    return [_as_rle(record["segmentation"], size) for record in records]


def _as_rle(segmentation: Any, size: tuple[int, int]) -> Any:
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation
