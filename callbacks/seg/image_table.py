"""Rows of the W&B table of the gallery: images with masks, boxes and their agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.seg.confusion import pair_detections
from loggers.wandb_media import Media
from structures import Instances

COLUMNS = ("picture", "image", "instances", "predicted", "found", "mean IoU")
IOU = 0.5

Shown = tuple[str, Instances, npt.NDArray[np.bool_], Instances]


def image_rows(shown: Sequence[Shown], media: Sequence[Media]) -> list[list[Any]]:
    """Return one row per image, with the columns ``COLUMNS``.

    ``found`` counts instances matched with a prediction of their class at mask IoU .5 (box IoU
    without masks); ``mean IoU`` is the mean over these pairs, empty without pairs. Crowd regions
    are not counted, and predictions inside them are not counted as errors.

    Args:
        shown: name, ground-truth instances, their crowd flags, and the predictions shown.
        media: the same images with W&B masks and boxes.
    """
    rows: list[list[Any]] = []
    for (name, truth, crowd, prediction), medium in zip(shown, media, strict=True):
        kind: Any = "segm" if prediction.masks is not None and truth.masks is not None else "bbox"
        regions = coco_records(truth, crowd.tolist())
        pairs = pair_detections(regions, coco_records(prediction), truth.size, IOU, kind)
        right = truth.labels.numpy()[pairs.truth] == prediction.labels.numpy()[pairs.found]
        rows.append(
            [
                medium,
                name.removeprefix("image "),
                int((~crowd).sum()),
                len(prediction),
                int(right.sum()),
                float(pairs.overlap[right].mean()) if right.any() else None,
            ]
        )
    return rows


def coco_records(instances: Instances, crowd: Sequence[bool] | None = None) -> list[dict[str, Any]]:
    """Return instances as COCO records."""
    corners = instances.boxes.double().numpy()
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    masks = [None] * len(boxes) if instances.masks is None else instances.masks.to_coco()
    flags = crowd or [False] * len(boxes)
    return [
        {"image_id": 0, "bbox": box, "segmentation": mask, "score": score, "iscrowd": int(flag)}
        for box, mask, score, flag in zip(
            boxes, masks, instances.scores.tolist(), flags, strict=True
        )
    ]
