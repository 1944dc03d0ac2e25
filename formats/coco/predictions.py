"""Predictions for the images of a COCO file, from a checkpoint or from a results file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from formats.coco.results import Row, merge_categories
from structures import Problem


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
    """

    ground_truth: dict[str, Any]
    rows: list[Row]
    max_dets: int | None = None
    parameters: int | None = None
    problems: tuple[Problem, ...] = ()

    def class_agnostic(self) -> CocoPredictions:
        """Return a copy with all categories merged into one."""
        truth, rows = merge_categories(self.ground_truth, self.rows)
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
