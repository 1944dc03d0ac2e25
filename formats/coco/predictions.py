"""Predictions for the images of a COCO file, from a checkpoint or from a results file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from formats.coco.results import Row, merge_categories
from structures import Problem, rle

_IMAGE_KEYS = ("id", "file_name", "width", "height")


def prediction_document(
    images: Iterable[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    rows: Iterable[Row],
    score: float,
) -> dict[str, Any]:
    """Return predictions as the content of a COCO instances file.

    Unlike a results list, it names the images and the categories, so that ``COCO(file)`` of
    pycocotools and labelling programs read it without the ground truth.

    Args:
        images: records with ``id``, ``file_name``, ``width`` and ``height``; other keys are left
            out. An image without predictions keeps its record.
        categories: records with ``id`` and ``name``.
        rows: COCO results rows with ``bbox`` and, if the model predicts masks, ``segmentation``.
        score: rows with a lower score are left out.

    Returns:
        ``images``, ``categories`` and ``annotations``; an annotation has ``score`` in addition to
        COCO's keys, and ``area`` counts the pixels of its mask, or is that of its box.
    """
    lowest = np.float32(score)  # the precision of the model's scores, as in overlays
    kept = (row for row in rows if np.float32(row["score"]) >= lowest)
    return {
        "images": [{key: record[key] for key in _IMAGE_KEYS} for record in images],
        "categories": [dict(category) for category in categories],
        "annotations": [
            {"id": number, **row, "area": _area(row), "iscrowd": 0}
            for number, row in enumerate(kept, start=1)
        ],
    }


def _area(row: Row) -> float:
    if "segmentation" in row:
        return rle.area(rle.from_bytes(row["segmentation"]["counts"]))
    return float(row["bbox"][2] * row["bbox"][3])


@dataclass(frozen=True, slots=True)
class CocoPredictions:
    """Checked predictions with the checked ground truth for scoring them.

    Attributes:
        ground_truth: content of a COCO instances file; for a checkpoint, only the categories that
            the model knows.
        rows: COCO results rows.
        max_dets: limit on detections per image of the checkpoint; None for a results file.
        parameters: number of parameters of the checkpoint; None for a results file.
        problems: problems of the images, annotations and rows that were left out.
        whole_truth: for a checkpoint of open-world data, the ground truth of all categories.
    """

    ground_truth: dict[str, Any]
    rows: list[Row]
    max_dets: int | None = None
    parameters: int | None = None
    problems: tuple[Problem, ...] = ()
    whole_truth: dict[str, Any] | None = None

    def class_agnostic(self) -> CocoPredictions:
        """Return a copy with all categories merged into one, novel ones included."""
        truth, rows = merge_categories(self.whole_truth or self.ground_truth, self.rows)
        return replace(self, ground_truth=truth, rows=rows)

    @property
    def most_per_image(self) -> int:
        """Largest number of rows per image; 0 for a results file, which has no limit."""
        return self._most("image_id")

    @property
    def most_per_class(self) -> int:
        """Largest number of rows per image and category; 0 for a results file."""
        return self._most("image_id", "category_id")

    def _most(self, *keys: str) -> int:
        if self.max_dets is None:  # a file may have more rows than should be counted
            return 0
        counted = Counter(tuple(row[key] for key in keys) for row in self.rows)
        return max(counted.values(), default=0)
