"""The protocols by which novel objects are scored, by name.

"AR@100 on novel classes" has several meanings in the literature, so a score has to name its
protocol. In all of them detections are pooled whatever their category id.

- ``exclude-known`` (OLN, arXiv 2108.06753; also GGN, UDOS, and AP of LDET): what ends matched to a
  known object at IoU .50 is left out, at all thresholds, and does not count towards a cap.
- ``novel-only`` (v-CLR, CVPR 2025): annotations of known objects are removed, so what detects them
  is a false positive and counts towards the caps.
- ``class-wise`` (AR of LDET, arXiv 2112.01698): all detections compete for the objects of each
  novel category by itself; the mean over the categories with objects.
- ``all``: every object counts.
- ``lvis-ow`` (SegPrompt, arXiv 2308.06531): class-wise over all categories of LVIS, and the mean
  over the known, the seen and the unseen ones; 100 detections unless other caps are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from evaluation.open_world.overlaps import Overlaps, find_overlaps
from evaluation.open_world.scores import class_recalls, pooled_scores
from evaluation.seg.coco_backends import IouType
from evaluation.seg.coco_scores import KIND
from formats.coco.results import Row
from formats.coco.splits import CategorySplit

Protocol = Literal["exclude-known", "novel-only", "class-wise", "all", "lvis-ow"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
CAPS = (1, 10, 20, 30, 50, 100, 300, 500, 1000, 1500)


def evaluate_protocol(
    protocol: Protocol,
    truth: Mapping[str, Any],
    rows: Sequence[Row],
    split: CategorySplit | None = None,
    *,
    caps: Sequence[int] | None = None,
    iou_types: Sequence[IouType] = ("bbox", "segm"),
    drop_empty: bool = False,
) -> dict[str, float]:
    """Score detections by a protocol.

    Args:
        protocol: one of `PROTOCOLS`.
        truth: content of a COCO instances file that was checked.
        rows: COCO results rows of its images that were checked, in the order of the file.
        split: known and novel categories; ``all`` needs none.
        caps: caps on the detections of an image; None for the protocol's own.
        iou_types: ``bbox``, ``segm`` or both.
        drop_empty: leave out images without a novel object, as v-CLR does; for ``novel-only``.

    Returns:
        Value by name: ``segm_map``, ``segm_map_50``, ``_75``, ``_small``, ``_medium``, ``_large``,
        ``segm_ar_<cap>``, ``segm_ar_small``, ``_medium``, ``_large``, ``segm_auc``, ``segm_f1``,
        and ``box_*``; class-wise protocols have ``segm_ar_<cap>`` alone, and ``lvis-ow`` also
        ``segm_ar_<cap>_known``, ``_seen`` and ``_unseen``. NaN where no object counts.

    Raises:
        ValueError: the protocol needs a split or sets that are missing, or ``drop_empty`` has no
            effect.
    """
    check_protocol(protocol, split, drop_empty)
    caps = caps_of(protocol, caps)
    if protocol == "novel-only" and split is not None:
        truth, rows = _without_known(truth, rows, split, drop_empty)
    metrics: dict[str, float] = {}
    for iou_type in iou_types:
        overlaps = find_overlaps(truth, rows, iou_type, caps[-1])
        kind = KIND[iou_type]
        if protocol in ("class-wise", "lvis-ow") and split is not None:
            metrics |= _class_wise(protocol, overlaps, split, caps, kind)
            continue
        known = np.zeros(overlaps.categories.size, dtype=bool)
        if protocol == "exclude-known" and split is not None:
            known = np.isin(overlaps.categories, split.known)
        metrics |= pooled_scores(overlaps, known, caps, kind)
    return metrics


def known_and_novel_scores(
    truth: Mapping[str, Any],
    rows: Sequence[Row],
    split: CategorySplit,
    iou_types: Sequence[IouType] = ("bbox", "segm"),
) -> dict[str, dict[str, float]]:
    """Score ``exclude-known`` for the novel objects and, with exchanged roles, for the known.

    Args:
        truth: content of a COCO instances file that was checked.
        rows: COCO results rows of its images that were checked.
        split: known and novel categories.
        iou_types: ``bbox``, ``segm`` or both.

    Returns:
        For ``known`` and ``novel`` what `evaluate_protocol` returns; overlaps are computed once.
    """
    found: dict[str, dict[str, float]] = {"known": {}, "novel": {}}
    for iou_type in iou_types:
        overlaps = find_overlaps(truth, rows, iou_type, CAPS[-1])
        known = np.isin(overlaps.categories, split.known)
        for name, excluded in (("known", ~known), ("novel", known)):
            found[name] |= pooled_scores(overlaps, excluded, CAPS, KIND[iou_type])
    return found


def caps_of(protocol: str, caps: Sequence[int] | None) -> tuple[int, ...]:
    """Return the caps in ascending order, those of the protocol where none are given."""
    return tuple(sorted(set(caps or ((100,) if protocol == "lvis-ow" else CAPS))))


def check_protocol(protocol: str, split: CategorySplit | None, drop_empty: bool) -> None:
    """Raise a ValueError that names what a protocol lacks or what has no effect on it."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")
    if protocol != "all" and split is None:
        raise ValueError(f"protocol {protocol} needs the known categories: --known voc, or 1 2 3")
    if protocol == "lvis-ow" and split is not None and (split.seen is None or split.unseen is None):
        raise ValueError(
            "protocol lvis-ow needs seen and unseen categories, which the split "
            f"{split.name} lacks; use --known lvis-ow, or a file with both"
        )
    if drop_empty and protocol != "novel-only":
        raise ValueError(f"--drop-empty belongs to the protocol novel-only, not to {protocol}")


def _without_known(
    truth: Mapping[str, Any], rows: Sequence[Row], split: CategorySplit, drop_empty: bool
) -> tuple[Mapping[str, Any], Sequence[Row]]:
    known = set(split.known)
    novel = [a for a in truth["annotations"] if a["category_id"] not in known]
    truth = {**truth, "annotations": novel}
    if not drop_empty:
        return truth, rows
    used = {a["image_id"] for a in novel}
    images = [image for image in truth["images"] if image["id"] in used]
    return {**truth, "images": images}, [row for row in rows if row["image_id"] in used]


def _class_wise(
    protocol: Protocol, overlaps: Overlaps, split: CategorySplit, caps: Sequence[int], kind: str
) -> dict[str, float]:
    recalls = class_recalls(overlaps, caps)
    known = set(split.known)
    sets: dict[str, set[int]] = {"": recalls.keys() - known}
    if protocol == "lvis-ow":
        sets = {"": set(recalls), "_known": known}
        sets |= {"_seen": set(split.seen or ()), "_unseen": set(split.unseen or ())}
    metrics: dict[str, float] = {}
    for end, ids in sets.items():
        rows = [recalls[i] for i in sorted(ids & recalls.keys())]
        means = np.mean(rows, axis=0) if rows else np.full(len(caps), np.nan)
        metrics |= {f"{kind}_ar_{cap}{end}": float(m) for cap, m in zip(caps, means, strict=True)}
    return metrics


def kept_detections(truth: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Return the largest number of rows of an image and the median over all images."""
    counts = {image["id"]: 0 for image in truth["images"]}
    for row in rows:
        counts[row["image_id"]] += 1
    numbers = list(counts.values())
    return {"most": max(numbers, default=0), "median": float(np.median(numbers or [0]))}
