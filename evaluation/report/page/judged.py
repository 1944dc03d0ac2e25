"""What each run finds and misses in each image at the operating point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.report.errors import MATCH, ImageErrors
from evaluation.seg.coco_backends import IouType
from formats.coco.results import Row

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Runs on the same images.

    Attributes:
        truth: content of a COCO instances file.
        names: names of the runs.
        rows: COCO results rows of each run.
        images: errors of each run, in the order of ``truth["images"]``.
        score: confidence from which detections count.
        kind: overlap that decides.
    """

    truth: Mapping[str, Any]
    names: tuple[str, ...]
    rows: tuple[Sequence[Row], ...]
    images: tuple[Sequence[ImageErrors], ...]
    score: float
    kind: IouType

    def counts(self, run: int) -> npt.NDArray[np.int64]:
        """Return (I, 3) true positives, false positives and missed objects of each image."""
        rows = []
        for image in self.images[run]:
            kept = [d for d in image.detections if d.score >= self.score and not d.crowd]
            true = sum(d.kind == MATCH for d in kept)
            rows.append((true, len(kept) - true, len(image.objects) - true))
        return np.array(rows, dtype=np.int64).reshape(-1, 3)

    def found(self, run: int, position: int) -> dict[int, float]:
        """Return the objects found in an image: number of the annotation -> score."""
        return {
            d.truth: d.score
            for d in self.images[run][position].detections
            if d.kind == MATCH and d.score >= self.score and d.truth is not None
        }

    def class_names(self) -> dict[int, str]:
        """Return the name of each category."""
        return {int(c["id"]): str(c["name"]) for c in self.truth["categories"]}

    def image_names(self) -> tuple[str, ...]:
        """Return the file name of each image, or its id."""
        return tuple(str(i.get("file_name") or i["id"]) for i in self.truth["images"])


def f1(counts: npt.NDArray[np.int64]) -> FloatArray:
    """Return (I,) F1 of each image, NaN without objects and detections.

    Args:
        counts: see `Judged.counts`.
    """
    true, false, missed = counts.T.astype(np.float64)
    total = 2 * true + false + missed
    result: FloatArray = np.full(total.shape, np.nan)
    np.divide(2 * true, total, out=result, where=total > 0)
    return result


def image_key(position: int) -> str:
    """Return the key of an image on the page."""
    return f"i{position}"
