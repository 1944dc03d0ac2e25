"""Detections, objects and the overlaps of at least one half between them, of all images at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.seg.coco_backends import FloatArray, IouType
from evaluation.seg.matching import regions
from formats.coco.results import Row, image_sizes

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Overlaps(NamedTuple):
    """Detections (D), objects (G) and pairs of both (P), of all images by ascending id.

    Attributes:
        images: (D,) position of the image of a detection, ascending.
        scores: (D,) descending within an image; equal scores keep the order of the rows.
        ranks: (D,) position of a detection in its image, 0 for the highest score.
        areas: (D,) pixels of the mask, or the area of the box.
        object_images: (G,) position of the image of an object, ascending.
        object_areas: (G,) ``area`` of the annotations.
        categories: (G,) category ids.
        crowd: (G,) whether an object is a crowd region.
        pair_detections: (P,) ascending.
        pair_objects: (P,) ascending within a detection.
        ious: (P,) at least .5: IoU, or the covered fraction of the detection for a crowd region.
    """

    images: IntArray
    scores: FloatArray
    ranks: IntArray
    areas: FloatArray
    object_images: IntArray
    object_areas: FloatArray
    categories: IntArray
    crowd: BoolArray
    pair_detections: IntArray
    pair_objects: IntArray
    ious: FloatArray


def find_overlaps(
    truth: Mapping[str, Any], rows: Sequence[Row], iou_type: IouType, most: int
) -> Overlaps:
    """Compute the overlaps between detections and objects, whatever their categories.

    Args:
        truth: content of a COCO instances file.
        rows: COCO results rows of its images.
        iou_type: overlap of masks (``segm``) or of boxes (``bbox``).
        most: detections kept of each image, by score.

    Raises:
        ValueError: a record lacks the key that ``iou_type`` needs.
    """
    objects: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["image_id"]].append(row)
    sizes = image_sizes(truth)
    parts, detections, annotations = [], 0, 0
    for number, image in enumerate(sorted(sizes)):
        best = sorted(found[image], key=lambda row: -float(row["score"]))[:most]
        part = _of_image(number, objects[image], best, sizes[image], iou_type)
        parts.append(
            part._replace(
                pair_detections=part.pair_detections + detections,
                pair_objects=part.pair_objects + annotations,
            )
        )
        detections, annotations = detections + len(best), annotations + len(objects[image])
    if not parts:
        parts = [_of_image(0, [], [], (0, 0), iou_type)]
    return Overlaps(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _of_image(
    number: int,
    objects: Sequence[Mapping[str, Any]],
    found: Sequence[Row],
    size: tuple[int, int],
    iou_type: IouType,
) -> Overlaps:
    """Return the part of one image, with detections and objects numbered from 0."""
    from pycocotools import mask as coco_mask

    crowd = np.array([bool(a.get("iscrowd", 0)) for a in objects], dtype=bool)
    shapes, targets = (regions(records, size, iou_type) for records in (found, objects))
    ious = np.zeros((len(found), len(objects)))
    if found and objects:
        ious = np.asarray(coco_mask.iou(shapes, targets, crowd.tolist()), dtype=np.float64)
    pair_detections, pair_objects = np.nonzero(ious >= 0.5)
    if iou_type == "segm":  # in parts: pycocotools cannot return the areas of more than 255 masks
        cuts = range(0, len(shapes), 255)
        areas = np.array([a for i in cuts for a in coco_mask.area(shapes[i : i + 255])], float)
    else:
        areas = np.array([box[2] * box[3] for box in shapes], float)
    return Overlaps(
        images=np.full(len(found), number, dtype=np.int64),
        scores=np.array([row["score"] for row in found], dtype=np.float64),
        ranks=np.arange(len(found)),
        areas=areas,
        object_images=np.full(len(objects), number, dtype=np.int64),
        object_areas=np.array([a["area"] for a in objects], dtype=np.float64),
        categories=np.array([a["category_id"] for a in objects], dtype=np.int64),
        crowd=crowd,
        pair_detections=pair_detections,
        pair_objects=pair_objects,
        ious=ious[pair_detections, pair_objects],
    )
