"""Precision, recall and F1 of detections at a fixed confidence, with intervals over images.

COCO metrics integrate over all confidences; a deployed detector has one. The protocol works for
any model that writes COCO results, so that two models are compared by the same rule:

1. keep the ``max_dets`` best detections per image, and of these the ones with score >= the
   confidence;
2. match them by image and class as described in ``evaluation/seg/matching.py``;
3. sum over images. Precision TP / (TP + FP), recall TP / (TP + FN), F1 2 TP / (2 TP + FP + FN);
   a ratio 0 / 0 is NaN and left out of the mean over classes.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.seg.coco_backends import FloatArray, IouType
from evaluation.seg.matching import Matched, match_detections
from evaluation.statistics.resampling import draw_counts, percentile_interval
from formats.coco.results import Row, check_ground_truth, check_results

IntArray = npt.NDArray[np.int64]
RATES = ("precision", "recall", "f1")
CONFIDENCES: FloatArray = np.linspace(0.0, 1.0, 1000)  # of the curves
RECORDED_CLASSES = 20  # records have curves by class for at most this many classes (A261)


class Interval(NamedTuple):
    """A value with its bootstrap interval; NaN if undefined in every resample."""

    value: float
    low: float
    high: float


class TunedPoint(NamedTuple):
    """The confidence with the best class-mean F1, chosen on the data that it is reported on."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Counts (TP, FP, FN) of one model on one data set with I images and C classes.

    Attributes:
        score: smallest confidence of a detection that counts.
        iou: smallest overlap of a match.
        iou_type: overlap of masks (``segm``) or of boxes (``bbox``).
        max_dets: cap on detections per image.
        categories: (id, name) by ascending id.
        image_ids: images by ascending id.
        counts: (I, C, 3) at ``score``.
        confidences: (1000,) from 0 to 1.
        curve_counts: (1000, C, 3) summed over images.
    """

    score: float
    iou: float
    iou_type: IouType
    max_dets: int
    categories: tuple[tuple[int, str], ...]
    image_ids: tuple[int, ...]
    counts: IntArray
    confidences: FloatArray
    curve_counts: IntArray

    def per_class(self) -> list[dict[str, Any]]:
        """Return one row per category: id, name, tp, fp, fn, precision, recall, f1."""
        totals = self.counts.sum(axis=0)
        values = _rates(totals)
        return [
            {
                "category_id": identifier,
                "name": name,
                **dict(zip(("tp", "fp", "fn"), totals[c].tolist(), strict=True)),
                **dict(zip(RATES, values[c].tolist(), strict=True)),
            }
            for c, (identifier, name) in enumerate(self.categories)
        ]

    def metrics(self) -> dict[str, float]:
        """Return precision, recall, F1: ``mean_`` over classes, ``micro_`` of the totals."""
        return dict(zip(_METRICS, _means(self.counts.sum(axis=0)).tolist(), strict=True))

    def curves(self) -> dict[str, FloatArray]:
        """Return (1000, C) precision, recall and F1 over ``confidences``, NaN where undefined."""
        values = _rates(self.curve_counts)
        return {name: values[..., number] for number, name in enumerate(RATES)}

    def mean_curves(self) -> dict[str, FloatArray]:
        """Return (1000,) values of each metric over ``confidences``, NaN where undefined."""
        return dict(zip(_METRICS, _means(self.curve_counts).T, strict=True))

    def curve_record(self) -> dict[str, Any]:
        """Return the curves as lists of 1000 numbers, ready for JSON (A261).

        Returns:
            ``mean_precision``, ``micro_f1`` and so on; ``per_class``, one row per category with
            ``category_id``, ``name``, ``precision``, ``recall``, ``f1``, empty if there are more
            than 20 categories.
        """
        record: dict[str, Any] = {name: v.tolist() for name, v in self.mean_curves().items()}
        named = self.categories if len(self.categories) <= RECORDED_CLASSES else ()
        curves = self.curves()
        record["per_class"] = [
            {
                "category_id": identifier,
                "name": name,
                **{rate: curves[rate][:, c].tolist() for rate in RATES},
            }
            for c, (identifier, name) in enumerate(named)
        ]
        return record

    def tuned(self) -> TunedPoint:
        """Return the point with the best class-mean F1, the lowest confidence of equal ones.

        It is chosen on the same data that it is reported on, so do not compare it with fixed
        points.
        """
        means = _means(self.curve_counts)
        if np.isnan(means[:, 2]).all():
            return TunedPoint(*([float("nan")] * 4))
        best = int(np.nanargmax(means[:, 2]))
        return TunedPoint(float(self.confidences[best]), *means[best, :3].tolist())

    def intervals(
        self, resamples: int = 1000, seed: int = 0, level: float = 0.95
    ) -> dict[str, Interval]:
        """Return ``metrics`` with percentile bootstrap intervals over images.

        Args:
            resamples: number of resampled data sets.
            seed: seed of the resampling.
            level: coverage in (0, 1).
        """
        samples = _resampled(self.counts, resamples, seed)
        return _intervals(_means(self.counts.sum(axis=0)), samples, level)

    def summary(self, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Return everything except the curves as plain containers, ready for JSON."""
        intervals = self.intervals(resamples, seed)
        return {
            "score": self.score,
            "iou": self.iou,
            "iou_type": self.iou_type,
            "max_dets": self.max_dets,
            "num_images": len(self.image_ids),
            "metrics": self.metrics(),
            "intervals_95": {name: [i.low, i.high] for name, i in intervals.items()},
            "per_class": self.per_class(),
            "tuned_on_this_data": self.tuned()._asdict(),
        }


_Outcome = tuple[int, int, Matched]  # image number, class number, matches
_METRICS = tuple(f"{kind}_{rate}" for kind in ("mean", "micro") for rate in RATES)


def operating_point(
    ground_truth: Mapping[str, Any],
    results: Sequence[Row],
    score: float = 0.5,
    iou: float = 0.5,
    iou_type: IouType = "segm",
    max_dets: int = 300,
) -> OperatingPoint:
    """Check ground truth and results, and count true and false positives at a confidence.

    Args:
        ground_truth: content of a COCO instances file.
        results: COCO results rows; ``segmentation`` is needed for ``segm``, ``bbox`` for ``bbox``.
        score: detections with at least this score count, in [0, 1].
        iou: a match needs at least this overlap, in (0, 1].
        iou_type: ``segm`` or ``bbox``.
        max_dets: detections kept per image over all classes, by score.

    Raises:
        ValueError: invalid ground truth, rows that do not match it or lack the key that
            ``iou_type`` needs, or a threshold out of range.
    """
    check_ground_truth(ground_truth)
    check_results(results, ground_truth)
    return count_at_confidence(ground_truth, results, score, iou, iou_type, max_dets)


def count_at_confidence(
    ground_truth: Mapping[str, Any],
    results: Sequence[Row],
    score: float = 0.5,
    iou: float = 0.5,
    iou_type: IouType = "segm",
    max_dets: int = 300,
) -> OperatingPoint:
    """Count true positives, false positives and false negatives at a confidence.

    Args:
        ground_truth: content of a COCO instances file, which has been checked.
        results: COCO results rows that have been checked against it.
        score: see `operating_point`.
        iou: see `operating_point`.
        iou_type: see `operating_point`.
        max_dets: see `operating_point`.

    Raises:
        ValueError: rows lack the key that ``iou_type`` needs, or a threshold is out of range.
    """
    if not 0 < iou <= 1 or max_dets < 1:
        raise ValueError(f"iou must be in (0, 1] and max_dets >= 1, got {iou} and {max_dets}")
    if not 0 <= score <= 1:
        raise ValueError(f"score is the confidence from which to count, in [0, 1], got {score}")
    categories = sorted((int(c["id"]), str(c["name"])) for c in ground_truth["categories"])
    image_ids = sorted(image["id"] for image in ground_truth["images"])
    matched = match_detections(ground_truth, results, iou, iou_type, max_dets)
    image_number = {identifier: i for i, identifier in enumerate(image_ids)}
    class_number = {identifier: c for c, (identifier, _) in enumerate(categories)}
    outcomes = [(image_number[i], class_number[c], outcome) for (i, c), outcome in matched.items()]
    point = OperatingPoint(
        score=score,
        iou=iou,
        iou_type=iou_type,
        max_dets=max_dets,
        categories=tuple(categories),
        image_ids=tuple(image_ids),
        counts=_count(outcomes, len(image_ids), len(categories), score),
        confidences=CONFIDENCES,
        curve_counts=_count_curve(outcomes, len(categories), CONFIDENCES),
    )
    _warn_undefined(point)
    return point


def paired_bootstrap(
    first: OperatingPoint,
    second: OperatingPoint,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return ``first`` minus ``second`` of every metric with an interval over shared resamples.

    Both models are scored on the same resampled images, so the difficulty of an image for both
    cancels and the interval is narrower than for two independent resamplings.

    Raises:
        ValueError: the two points were not computed on the same images, classes and overlap rule.
    """
    for name in ("image_ids", "categories", "iou", "iou_type"):
        if getattr(first, name) != getattr(second, name):
            raise ValueError(f"the two models were scored with different {name}; use the same")
    samples = _resampled(first.counts, resamples, seed) - _resampled(second.counts, resamples, seed)
    value = _means(first.counts.sum(axis=0)) - _means(second.counts.sum(axis=0))
    return _intervals(value, samples, level)


def _count(outcomes: Sequence[_Outcome], images: int, classes: int, score: float) -> IntArray:
    counts = np.zeros((images, classes, 3), dtype=np.int64)
    for i, c, matched in outcomes:
        kept = [right for value, right in matched.detections if value >= score]
        true = sum(kept)
        counts[i, c] = true, len(kept) - true, matched.positives - true
    return counts


def _count_curve(outcomes: Sequence[_Outcome], classes: int, confidences: FloatArray) -> IntArray:
    scores: dict[tuple[int, bool], list[float]] = defaultdict(list)
    positives = np.zeros(classes, dtype=np.int64)
    for _, c, matched in outcomes:
        positives[c] += matched.positives
        for value, right in matched.detections:
            scores[c, right].append(value)
    counts = np.zeros((confidences.size, classes, 3), dtype=np.int64)
    for (c, right), values in scores.items():
        below = np.searchsorted(np.sort(values), confidences, side="left")
        counts[:, c, 0 if right else 1] = len(values) - below
    counts[:, :, 2] = positives - counts[:, :, 0]
    return counts


def _rates(counts: npt.NDArray[Any]) -> FloatArray:
    """Turn (..., 3) counts (TP, FP, FN) into (..., 3) precision, recall, F1."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    below = np.stack([tp + fp, tp + fn, 2 * tp + fp + fn], axis=-1)
    above = np.stack([tp, tp, 2 * tp], axis=-1)
    return _ratio(above, below)


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> FloatArray:
    """Return above / below, NaN where below is 0."""
    result: FloatArray = np.full(below.shape, np.nan)
    np.divide(above, below, out=result, where=below > 0)
    return result


def _means(counts: npt.NDArray[Any]) -> FloatArray:
    """Turn (..., C, 3) counts into (..., 6): rates averaged over classes, rates of the totals."""
    values = _rates(counts)
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=-2)
    number = defined.sum(axis=-2)
    return np.concatenate([_ratio(total, number), _rates(counts.sum(axis=-2))], axis=-1)


def _resampled(counts: IntArray, resamples: int, seed: int) -> FloatArray:
    """Return (resamples, 6) metrics of data sets drawn with replacement."""
    images = counts.shape[0]
    if images == 0 or resamples < 1:
        raise ValueError(f"cannot draw {resamples} resamples of {images} images")
    (taken,) = draw_counts([np.arange(images)], resamples, seed, per_block=resamples)
    totals = taken.astype(np.float64) @ counts.reshape(images, -1).astype(np.float64)
    return _means(totals.reshape(resamples, *counts.shape[1:]))


def _intervals(value: FloatArray, samples: FloatArray, level: float) -> dict[str, Interval]:
    return {
        name: Interval(float(value[number]), *percentile_interval(samples[:, number], level))
        for number, name in enumerate(_METRICS)
    }


def _warn_undefined(point: OperatingPoint) -> None:
    undefined = [
        f"{rate} of {row['name']}"
        for row in point.per_class()
        for rate in RATES
        if np.isnan(row[rate])
    ]
    if undefined:
        shown = ", ".join(undefined[:6]) + (", ..." if len(undefined) > 6 else "")
        warnings.warn(
            f"undefined at score {point.score} and left out of the mean: {shown}", stacklevel=3
        )
