"""Predictions on the pictures of a COCO file, from a checkpoint or from a results file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from formats.coco.results import Row, merge_categories
from structures import Problem


@dataclass(frozen=True, slots=True)
class CocoPredictions:
    """Checked predictions with the checked ground truth that they are scored against.

    Attributes:
        ground_truth: content of a COCO instances file; of a checkpoint restricted to its
            categories.
        rows: COCO results rows.
        max_dets: a checkpoint's cap on detections a picture; None of a results file, whose cap is
            not known.
        parameters: number of a checkpoint's weights, or None.
        problems: of the pictures, annotations and rows that were left out.
    """

    ground_truth: dict[str, Any]
    rows: list[Row]
    max_dets: int | None = None
    parameters: int | None = None
    problems: tuple[Problem, ...] = ()

    def class_agnostic(self) -> CocoPredictions:
        """Return the same with every category merged into one."""
        truth, rows = merge_categories(self.ground_truth, self.rows)
        return replace(self, ground_truth=truth, rows=rows)

    @property
    def most_in_picture(self) -> int:
        """Largest number of rows of a picture that a checkpoint means; 0 of a results file."""
        return self._most("image_id")

    @property
    def most_in_class(self) -> int:
        """Largest number of rows of a picture and class that a checkpoint means; 0 of a file."""
        return self._most("image_id", "category_id")

    def _most(self, *keys: str) -> int:
        if self.max_dets is None:  # a file may well hold more than anybody wants to count
            return 0
        counted = Counter(tuple(row[key] for key in keys) for row in self.rows)
        return max(counted.values(), default=0)
