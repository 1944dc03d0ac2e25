"""The summary of a COCO evaluation: metrics, a table by class, precision-recall curves.

The summary of the COCO API is fixed to 100 detections per image, so this one is computed from the
accumulated arrays. Names, with ``<kind>`` ``box`` or ``segm``: ``<kind>_map``, ``_map_50``,
``_map_75``, ``_map_small``, ``_map_medium``, ``_map_large``, ``<kind>_ar_<cap>`` for each detection
cap, and ``<kind>_ar_small``, ``_ar_medium``, ``_ar_large``. A value without any ground truth is NaN
(-1 in the API), which ``formats.files.write_json`` writes as ``null``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.seg.coco_backends import (
    IOU_THRESHOLDS,
    RECALL_THRESHOLDS,
    Accumulated,
    FloatArray,
    IouType,
)

KIND: dict[IouType, str] = {"bbox": "box", "segm": "segm"}
AREAS = ("all", "small", "medium", "large")


class PrecisionRecall(NamedTuple):
    """Precision by class at area "all" and the largest detection cap; -1 without ground truth.

    Attributes:
        precision: (T, R, K).
        recall: (T, K).
        scores: (T, R, K), the score at which each recall is reached, 0 beyond the last.
    """

    precision: FloatArray
    recall: FloatArray
    scores: FloatArray


@dataclass(frozen=True, slots=True)
class CocoScores:
    """The scores of one set of results.

    Attributes:
        metrics: value by name (see ``evaluation.seg.coco_scores``), NaN without ground truth.
        max_dets: ascending caps on detections per image and class; AP uses the last one.
        categories: (id, name) by ascending id, the order of axis K.
        truth_counts: (K,) ground-truth instances that are not crowd regions.
        num_images: number of images evaluated.
        curves: precision and recall by IoU type, from which the metrics were computed.
    """

    metrics: dict[str, float]
    max_dets: tuple[int, ...]
    categories: tuple[tuple[int, str], ...]
    truth_counts: npt.NDArray[np.int64]
    num_images: int
    curves: dict[IouType, PrecisionRecall]

    def per_class(self) -> list[dict[str, Any]]:
        """Return one row per category: id, name, ground-truth count and AP, AP50, AP75 by kind."""
        rows: list[dict[str, Any]] = []
        for k, (identifier, name) in enumerate(self.categories):
            row: dict[str, Any] = {
                "category_id": identifier,
                "name": name,
                "instances": int(self.truth_counts[k]),
            }
            for iou_type, curves in self.curves.items():
                of_class = curves.precision[:, :, k]
                row[f"{KIND[iou_type]}_map"] = _mean(of_class)
                for percent in (50, 75):
                    row[f"{KIND[iou_type]}_map_{percent}"] = _mean(of_class[_position(percent)])
            rows.append(row)
        return rows

    def pr_curve(self, iou_type: IouType, iou: float | None = 0.5) -> tuple[FloatArray, FloatArray]:
        """Return a precision-recall curve averaged over the classes that have ground truth.

        Args:
            iou_type: an evaluated IoU type.
            iou: 0.50, 0.55, ..., 0.95, or None for the mean over all ten.

        Returns:
            (101,) recalls from 0 to 1 and (101,) precisions, NaN if no class has ground truth. The
            mean of the precisions is the AP.

        Raises:
            ValueError: the IoU type was not evaluated or the threshold is not one of the ten.
        """
        if iou_type not in self.curves:
            raise ValueError(f"{iou_type!r} was not evaluated, only {sorted(self.curves)}")
        precision = self.curves[iou_type].precision
        if iou is not None:
            precision = precision[[_position(round(100 * iou))]]
        with_truth = precision[:, :, precision[0, 0] > -1]
        if with_truth.size == 0:
            return RECALL_THRESHOLDS.copy(), np.full(RECALL_THRESHOLDS.shape, np.nan)
        return RECALL_THRESHOLDS.copy(), with_truth.mean(axis=(0, 2))


def summarise(arrays: Accumulated, kind: str, caps: Sequence[int]) -> dict[str, float]:
    """Average precision and recall over the classes (and thresholds) that have ground truth."""
    metrics = {f"{kind}_map": _mean(arrays.precision[..., 0, -1])}
    for percent in (50, 75):
        metrics[f"{kind}_map_{percent}"] = _mean(arrays.precision[_position(percent), ..., 0, -1])
    for number, area in enumerate(AREAS[1:], start=1):
        metrics[f"{kind}_map_{area}"] = _mean(arrays.precision[..., number, -1])
    for number, cap in enumerate(caps):
        metrics[f"{kind}_ar_{cap}"] = _mean(arrays.recall[..., 0, number])
    for number, area in enumerate(AREAS[1:], start=1):
        metrics[f"{kind}_ar_{area}"] = _mean(arrays.recall[..., number, -1])
    return metrics


def _mean(values: FloatArray) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _position(percent: int) -> int:
    """Return the index of an IoU threshold given in percent."""
    where = np.flatnonzero(np.round(100 * IOU_THRESHOLDS).astype(int) == percent)
    if where.size != 1:
        raise ValueError(f"IoU {percent / 100} is not one of 0.50, 0.55, ..., 0.95")
    return int(where[0])
