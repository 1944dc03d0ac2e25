"""Recall and average precision of matched detections, with or without those of known objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.open_world.matching import match
from evaluation.open_world.overlaps import BoolArray, IntArray, Overlaps
from evaluation.seg.coco_backends import IOU_THRESHOLDS, RECALL_THRESHOLDS, FloatArray
from evaluation.seg.coco_scores import AREAS

# In pixels, both limits belong to a range, as in the COCO API
_LIMITS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
_AUC_CAPS = (10, 30, 50, 100, 300, 500, 1000)
_HALF, _THREE_QUARTERS = 0, 5  # positions of IoU .50 and .75


def pooled_scores(
    overlaps: Overlaps, known: BoolArray, caps: Sequence[int], kind: str
) -> dict[str, float]:
    """Score all categories as one, after removing what detects known objects.

    A detection that ends matched to a known object at IoU .50 is left out at all thresholds and
    does not count towards a cap, in each area range by itself.

    Args:
        overlaps: detections, objects and their overlaps.
        known: (G,) whether an object is known; none: nothing is removed.
        caps: ascending caps on the detections of an image. AP and the scores by area have the cap
            100, or the largest where 100 is none.
        kind: ``segm`` or ``box``, the beginning of the names.

    Returns:
        Value by name; NaN where no object counts.
    """
    ignored = np.stack(
        [
            known | overlaps.crowd | (overlaps.object_areas < low) | (overlaps.object_areas > high)
            for low, high in _LIMITS
        ]
    )
    begins, matched = match(overlaps, overlaps.object_images, ignored)
    candidates = overlaps.pair_detections[begins]
    at_100 = 100 if 100 in caps else caps[-1]
    metrics: dict[str, float] = {}
    order = np.argsort(-overlaps.scores, kind="stable")
    for area, (low, high) in enumerate(_LIMITS):
        pairs = matched[area]
        objects = np.where(pairs < 0, 0, overlaps.pair_objects[pairs]) if pairs.size else pairs
        removed = np.zeros(overlaps.scores.size, dtype=bool)
        removed[candidates] = (pairs[_HALF] >= 0) & known[objects[_HALF]] if pairs.size else False
        counted = (pairs >= 0) & ~ignored[area][objects] if pairs.size else pairs >= 0
        hits = np.zeros((len(IOU_THRESHOLDS), overlaps.scores.size), dtype=bool)
        hits[:, candidates] = counted
        outside = (overlaps.areas < low) | (overlaps.areas > high)
        alarms = np.broadcast_to(~outside, hits.shape).copy()
        alarms[:, candidates] &= pairs < 0
        ranks = np.where(removed, np.iinfo(np.int64).max, _ranks_of(overlaps, ~removed))
        positives = int((~ignored[area]).sum())
        end = "" if area == 0 else f"_{AREAS[area]}"
        for cap in caps if area == 0 else (at_100,):
            name = f"{kind}_ar_{cap}" if area == 0 else f"{kind}_ar{end}"
            metrics[name] = _recall(hits[:, ranks < cap], positives)
        best = order[ranks[order] < at_100]
        precision = _precision(hits[:, best], alarms[:, best], positives)
        metrics[f"{kind}_map{end}"] = float(precision.mean())
        if area == 0:
            metrics[f"{kind}_map_50"] = float(precision[_HALF].mean())
            metrics[f"{kind}_map_75"] = float(precision[_THREE_QUARTERS].mean())
    metrics = dict(sorted(metrics.items(), key=lambda item: "_ar_" in item[0]))  # AP first
    ap, recall = metrics[f"{kind}_map"], metrics[f"{kind}_ar_{at_100}"]
    metrics[f"{kind}_auc"] = area_under_recalls({c: metrics[f"{kind}_ar_{c}"] for c in caps})
    metrics[f"{kind}_f1"] = 2 * ap * recall / (ap + recall) if ap + recall else ap
    return metrics


def class_recalls(overlaps: Overlaps, caps: Sequence[int]) -> dict[int, FloatArray]:
    """Return the recall of each category when all detections of an image compete for it alone.

    Args:
        overlaps: detections, objects and their overlaps.
        caps: ascending caps on the detections of an image.

    Returns:
        Category id -> (caps,) mean recall over the thresholds, for the categories with an object
        that is not a crowd region.
    """
    ids, categories = np.unique(overlaps.categories, return_inverse=True)
    groups = overlaps.object_images * max(1, ids.size) + categories
    begins, matched = match(overlaps, groups, overlaps.crowd[None])
    pairs = matched[0]  # (T, C)
    hits = pairs >= 0
    hits &= ~overlaps.crowd[overlaps.pair_objects[pairs]] if pairs.size else True
    category = categories[overlaps.pair_objects[begins]]
    ranks = overlaps.ranks[overlaps.pair_detections[begins]]
    positives = np.bincount(categories[~overlaps.crowd], minlength=ids.size)
    found = np.stack(
        [
            np.bincount(category, weights=(hits & (ranks < cap)).sum(axis=0), minlength=ids.size)
            for cap in caps
        ]
    )
    recalls = found / np.maximum(positives, 1) / len(IOU_THRESHOLDS)
    return {int(ids[k]): recalls[:, k] for k in range(ids.size) if positives[k]}


def area_under_recalls(recalls: dict[int, float]) -> float:
    """Return the area under AR over log k / log 1000, as OLN measures it.

    AR at k = 1 counts as 0. (Kim et al., "Learning Open-World Object Proposals without Learning to
    Classify", RA-L 2022, arXiv 2108.06753.)

    Args:
        recalls: AR by cap.

    Returns:
        The area, NaN unless AR is there at 10, 30, 50, 100, 300, 500 and 1000.

    >>> row = dict(zip(_AUC_CAPS, (18.0, 26.5, 29.6, 33.4, 39.0, 41.5, 45.0)))
    >>> round(area_under_recalls(row), 2)  # OLN's published row
    24.85
    """
    if not set(_AUC_CAPS) <= recalls.keys():
        return float("nan")
    positions = np.log([1, *_AUC_CAPS]) / np.log(1000)
    return float(np.trapezoid([0.0, *(recalls[cap] for cap in _AUC_CAPS)], positions))


def _ranks_of(overlaps: Overlaps, kept: BoolArray) -> IntArray:
    """Return (D,) how many kept detections of the image come before each."""
    if not kept.size:
        return np.zeros(0, dtype=np.int64)
    before: IntArray = np.cumsum(kept) - kept
    starts = np.arange(kept.size) - overlaps.ranks  # first detection of the image
    ranks: IntArray = before - before[starts]
    return ranks


def _recall(hits: BoolArray, positives: int) -> float:
    return float(hits.sum() / (positives * len(hits))) if positives else float("nan")


def _precision(hits: BoolArray, alarms: BoolArray, positives: int) -> FloatArray:
    """Return (T, 101) interpolated precisions of detections by descending score."""
    if not positives:
        return np.full((len(hits), len(RECALL_THRESHOLDS)), np.nan)
    table = np.zeros((len(hits), len(RECALL_THRESHOLDS)))
    for row, hit, alarm in zip(table, hits, alarms, strict=True):
        counted = hit | alarm  # the others change neither recall nor precision
        true = np.cumsum(hit[counted])
        precision = true / (np.arange(1, true.size + 1) + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(true / positives, RECALL_THRESHOLDS, side="left")
        reached = at < precision.size
        row[reached] = precision[at[reached]]
    return table
