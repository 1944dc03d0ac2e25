"""COCO metrics of many resampled data sets, matched once and accumulated for all draws together.

A draw samples images with replacement. Its metrics equal the metrics of a data set that has w
copies, with new ids and next to each other, of an image drawn w times. No image needs to be
matched again: its detections enter the sorted list w times. Over the hits of one class at one IoU
threshold, in order of score, with TP_j and FP_j the weighted counts up to hit j and P the weighted
ground truths:

    recall_j = TP_j / P,  precision_j = TP_j / (TP_j + FP_j)
    envelope_j = max over k >= j of precision_k
    AP = sum_j envelope_j (thresholds in (recall_j-1, recall_j]) / 101

which is the rule of the COCO API, as precision is largest at a hit and the copies of a hit are
consecutive. If detections of one image and class tie, the copies alternate (a b a b), so each copy
has its own place in the list. Letters: R draws, I images, K classes, T IoU thresholds, E places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.seg.coco import detection_caps
from evaluation.seg.coco_backends import (
    IOU_THRESHOLDS,
    RECALL_THRESHOLDS,
    FloatArray,
    ImageMatches,
    IouType,
    match_images,
)
from evaluation.seg.coco_scores import AREAS, KIND
from formats.coco.results import Row

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_ONE_ULP = np.spacing(1)  # the COCO API adds it to the denominator of a precision
_FEW_DRAWS = 64  # up to which a loop over rows costs more than it saves
_LARGEST_TABLE = 1_000_000  # numbers of hits


class ClassMatches(NamedTuple):
    """The D detections of one class in all images, by descending score and then by image.

    Attributes:
        image: (D,) number of the image.
        place: (D,) rank among the detections of its image, from 0.
        scores: (D,).
        hits: (A, T, D), see `ImageMatches`; A = 4 area ranges.
        alarms: (A, T, D).
        positives: (A, I) ground truths to find in each image.
    """

    image: IntArray
    place: IntArray
    scores: FloatArray
    hits: BoolArray
    alarms: BoolArray
    positives: IntArray


class Matches(NamedTuple):
    """Matches of a data set, from which the metrics of its resamples are computed.

    Attributes:
        kind: ``box`` or ``segm``.
        caps: ascending caps on detections per image and class.
        images: I.
        classes: matches of the classes with a ground truth or a detection.
    """

    kind: str
    caps: tuple[int, ...]
    images: int
    classes: tuple[ClassMatches, ...]


def match_once(
    ground_truth: Mapping[str, Any],
    results: Sequence[Row],
    iou_type: IouType,
    max_dets: Sequence[int] | int = 100,
) -> Matches:
    """Match the detections of a data set.

    Args:
        ground_truth: content of a COCO instances file.
        results: COCO results rows that match it.
        iou_type: overlap of boxes or of masks.
        max_dets: see `evaluation.seg.coco.evaluate_results`.

    Raises:
        ValueError: an annotation lacks the mask that ``segm`` needs, or an invalid ``max_dets``.
    """
    caps = detection_caps(max_dets)
    images = len(ground_truth["images"])
    found: dict[int, list[ImageMatches]] = defaultdict(list)
    for one in match_images(ground_truth, results, iou_type, caps[-1]):
        found[one.category].append(one)
    classes = tuple(_class_matches(found[category], images) for category in sorted(found))
    return Matches(KIND[iou_type], caps, images, classes)


def weighted_metrics(matches: Matches, weights: IntArray) -> dict[str, FloatArray]:
    """Return the metrics of R data sets in which image i occurs ``weights[r, i]`` times.

    Args:
        matches: see `match_once`.
        weights: (R, I) int64, not negative.

    Returns:
        (R,) by the names of `evaluation.seg.coco_scores`; NaN without ground truth. A class without
        ground truth in a draw is left out of the means of this draw, as in the COCO API.
    """
    draws, areas, last = len(weights), len(AREAS), len(matches.caps) - 1
    precision = np.zeros((areas, draws, len(IOU_THRESHOLDS)))
    recall = np.zeros((areas + last, draws))
    present = np.zeros((areas, draws))
    for of_class in matches.classes:
        _add_precisions(of_class, weights, precision)
        for area in range(areas):
            truths = (weights @ of_class.positives[area]).astype(np.float64)
            present[area] += truths > 0
            caps = matches.caps if area == 0 else matches.caps[-1:]
            for number, cap in enumerate(caps):
                slot = number if area == 0 else last + area
                recall[slot] += _recall(of_class, area, cap, weights, truths)
    means = np.full_like(precision, np.nan)
    np.divide(precision, present[..., None], out=means, where=present[..., None] > 0)
    recalls = np.full_like(recall, np.nan)
    counts = np.concatenate([np.repeat(present[:1], last + 1, axis=0), present[1:]])
    np.divide(recall, counts, out=recalls, where=counts > 0)
    return _named(matches, means, recalls)


def _class_matches(found: Sequence[ImageMatches], images: int) -> ClassMatches:
    areas, thresholds = len(AREAS), len(IOU_THRESHOLDS)
    positives = np.zeros((areas, images), dtype=np.int64)
    for one in found:
        positives[one.area, one.image] = one.positives
    by_area = [sorted((m for m in found if m.area == a), key=_image) for a in range(areas)]
    whole = by_area[0]
    counts = [one.scores.size for one in whole]
    empty = np.zeros(0)
    scores = np.concatenate([empty, *(one.scores for one in whole)])
    order = np.argsort(-scores, kind="stable")
    shape = areas, thresholds, scores.size
    hits = np.array([np.hstack([m.hits for m in one]) for one in by_area]).reshape(shape)
    alarms = np.array([np.hstack([m.alarms for m in one]) for one in by_area]).reshape(shape)
    image = np.repeat([one.image for one in whole], counts)
    place = np.concatenate([empty, *(np.arange(count) for count in counts)]).astype(np.int64)
    return ClassMatches(
        image[order], place[order], scores[order], hits[..., order], alarms[..., order], positives
    )


def _image(one: ImageMatches) -> int:
    return one.image


def _recall(
    of_class: ClassMatches, area: int, cap: int, weights: IntArray, truths: FloatArray
) -> FloatArray:
    """Return (R,) the largest recall, averaged over IoU thresholds; 0 without ground truth."""
    kept = of_class.place < cap
    found = of_class.hits[area][:, kept].sum(axis=0)
    hits = np.bincount(of_class.image[kept], found, minlength=weights.shape[1])
    return weights @ hits / np.maximum(truths, 1) / len(IOU_THRESHOLDS)


def _add_precisions(of_class: ClassMatches, weights: IntArray, total: FloatArray) -> None:
    """Add the average precisions of a class to ``total`` (A, R, T), 0 without ground truth."""
    detection, copy = _places(of_class, weights.max(axis=0))
    # Draws are the last axis, so that the sums over places below add whole rows.
    drawn = weights.T.astype(np.int32)[of_class.image[detection]]  # (E, R)
    tied = copy > 0
    drawn[tied] = drawn[tied] >= copy[tied, None]
    for area in range(len(AREAS)):
        truths = weights @ of_class.positives[area]
        if not truths.any():
            continue
        hits = of_class.hits[area][:, detection]
        counted = hits | of_class.alarms[area][:, detection]
        reached = _Reached(truths)
        below, known = drawn, np.zeros(0, dtype=np.bool_)
        for t in range(len(IOU_THRESHOLDS)):
            if not hits[t].any():
                continue
            if not np.array_equal(known, counted[t]):  # often the same at all thresholds
                known, below = counted[t], _running(np.add, drawn[counted[t]])
            true = _running(np.add, drawn[hits[t]])
            precision = true / (below[hits[t][known]] + _ONE_ULP)
            total[area, :, t] += _average_precision(precision, reached(true))


def _average_precision(precision: FloatArray, reached: npt.NDArray[np.int32]) -> FloatArray:
    """Return (R,) average precision at one IoU threshold; the arguments are overwritten.

    Args:
        precision: (H, R) at each hit.
        reached: (H, R) number of recall thresholds up to the recall at each hit.
    """
    _running(np.maximum, precision[::-1])
    reached[1:] -= reached[:-1].copy()
    value: FloatArray = np.einsum("hr,hr->r", precision, reached) / len(RECALL_THRESHOLDS)
    return value


class _Reached:
    """Number of recall thresholds that are reached by some hits.

    Args:
        truths: (R,) number of ground truths of each draw.
    """

    def __init__(self, truths: IntArray) -> None:
        self.truths = np.maximum(truths, 1)
        numbers, place = np.unique(truths, return_inverse=True)
        ends = np.cumsum(numbers + 1)
        self.first: IntArray | None = None
        if ends[-1] <= _LARGEST_TABLE:  # a row for each number: 0 to n hits of n
            recalls = [np.arange(n + 1) / max(n, 1) for n in numbers.tolist()]
            found = np.searchsorted(RECALL_THRESHOLDS, np.concatenate(recalls), side="right")
            self.table, self.first = found.astype(np.int32), (ends - numbers - 1)[place]

    def __call__(self, true: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return (H, R) numbers of thresholds at (H, R) numbers of hits."""
        if self.first is not None:
            known: npt.NDArray[np.int32] = self.table[true + self.first]
            return known
        found = np.searchsorted(RECALL_THRESHOLDS, true / self.truths, side="right")
        return found.astype(np.int32)


def _running(function: np.ufunc, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Accumulate rows in place, from the first to the last.

    The same as ``function.accumulate`` over the first axis, which strides through the memory.
    """
    if rows.shape[1] < _FEW_DRAWS:
        function.accumulate(rows, axis=0, out=rows)
    else:
        for before, row in pairwise(rows):
            function(before, row, out=row)
    return rows


def _places(of_class: ClassMatches, most: IntArray) -> tuple[IntArray, IntArray]:
    """Return detection and copy at each place of the sorted list; copy 0 means all copies.

    Args:
        of_class: the detections.
        most: (I,) largest number of times that each image is drawn.
    """
    image, scores = of_class.image, of_class.scores
    count = scores.size
    if count == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    starts = np.concatenate(([True], (np.diff(scores) != 0) | (np.diff(image) != 0)))
    group = starts.cumsum() - 1
    tied = np.bincount(group)[group] > 1
    times = np.where(tied, most[image], 1)
    detection = np.repeat(np.arange(count), times)
    first = np.repeat(times.cumsum() - times, times)
    copy = np.where(tied[detection], np.arange(detection.size) - first + 1, 0)
    order = np.lexsort((detection, copy, group[detection]))
    return detection[order], copy[order]


def _named(matches: Matches, precision: FloatArray, recall: FloatArray) -> dict[str, FloatArray]:
    """Return precision (A, R, T) and recall (M + A - 1, R), averaged over classes, by name."""
    kind = matches.kind
    metrics = {f"{kind}_map": precision[0].mean(axis=1)}
    for percent, t in ((50, 0), (75, 5)):
        metrics[f"{kind}_map_{percent}"] = precision[0, :, t]
    for number, area in enumerate(AREAS[1:], start=1):
        metrics[f"{kind}_map_{area}"] = precision[number].mean(axis=1)
    names = [f"{kind}_ar_{cap}" for cap in matches.caps]
    names += [f"{kind}_ar_{area}" for area in AREAS[1:]]
    return metrics | dict(zip(names, recall, strict=True))
