"""Errors of instance segmentation by kind, and the AP50 that each of them costs.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (ECCV 2020,
arXiv 2008.08115). Each detection is a match or has one kind of error, tested in this order with
the foreground threshold t_f = .5 and the background threshold t_b = .1 of IoU:

- ``loc``: an object of its class overlaps by t_b to t_f: the place is wrong.
- ``cls``: an object of another class overlaps by at least t_f: the class is wrong.
- ``dupe``: a found object of its class overlaps by at least t_f: it was found already.
- ``bkg``: no object overlaps by more than t_b: nothing is there.
- ``both``: the rest: class and place are wrong.

An object that no detection matches and no ``cls`` or ``loc`` error could match is a ``miss``.

`detection_errors` returns one `ImageErrors` per image for galleries and lists, `error_summary`
counts the errors and the AP50 gained if each kind were fixed, by class and size too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.report.error_gains import (
    FIXES,
    KINDS,
    MATCH,
    DetectionRecord,
    ErrorSummary,
    ImageErrors,
    ObjectRecord,
    summarise_errors,
)
from evaluation.seg.coco_backends import FloatArray, IouType
from evaluation.seg.matching import regions
from evaluation.statistics.calibration import calibration
from formats.coco.results import Row, image_sizes

FOREGROUND = 0.5
BACKGROUND = 0.1
MAX_DETS = 100

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def detection_errors(
    ground_truth: Mapping[str, Any],
    results: Sequence[Row],
    iou_type: IouType,
    *,
    max_dets: int = MAX_DETS,
    foreground: float = FOREGROUND,
    background: float = BACKGROUND,
) -> list[ImageErrors]:
    """Return what is right and wrong in each image.

    Detections are matched in order of score, each to the free object of its class of highest IoU.
    Crowd regions are no objects; a detection without a match of which more than ``foreground``
    lies in a crowd region of its class has a kind, but counts in no AP.

    Args:
        ground_truth: content of a COCO instances file, which has been checked.
        results: COCO results rows that match it (see ``formats.coco.results.check_results``).
        iou_type: overlap of masks (``segm``) or of boxes (``bbox``).
        max_dets: detections kept per image over all classes, by score; ties keep their order.
        foreground: a match needs at least this IoU, in (0, 1].
        background: at most this IoU is no overlap, in [0, ``foreground``].

    Returns:
        One element per image in the order of ``ground_truth["images"]``, also for images without
        objects or detections. Detections beyond ``max_dets`` have no record.

    Raises:
        ValueError: a record lacks the key that ``iou_type`` needs.
    """
    sizes = image_sizes(ground_truth)
    objects: dict[Any, list[int]] = defaultdict(list)
    for number, annotation in enumerate(ground_truth["annotations"]):
        objects[annotation["image_id"]].append(number)
    found: dict[Any, list[int]] = defaultdict(list)
    for number, row in enumerate(results):
        found[row["image_id"]].append(number)
    images = []
    for image in ground_truth["images"]:
        key = image["id"]
        chosen = sorted(found.get(key, ()), key=lambda n: -results[n]["score"])[:max_dets]
        scene = _scene(
            ground_truth["annotations"], objects.get(key, []), results, chosen, sizes[key], iou_type
        )
        images.append(_judge(key, scene, foreground, background))
    return images


def error_summary(ground_truth: Mapping[str, Any], images: Sequence[ImageErrors]) -> ErrorSummary:
    """Return the number of errors of each kind and the AP50 gained if it were fixed.

    Args:
        ground_truth: content of a COCO instances file.
        images: see `detection_errors`.
    """
    return summarise_errors([int(c["id"]) for c in ground_truth["categories"]], images)


def matched_scores(images: Sequence[ImageErrors]) -> tuple[FloatArray, BoolArray]:
    """Return the scores of all detections and whether each is a match, for their calibration.

    Detections in crowd regions are left out.

    Args:
        images: see `detection_errors`.

    Returns:
        (P,) scores and (P,) bool.
    """
    kept = [d for image in images for d in image.detections if not d.crowd]
    scores = np.array([d.score for d in kept], dtype=np.float64)
    return scores, np.array([d.kind == MATCH for d in kept], dtype=bool)


def calibration_of_matches(images: Sequence[ImageErrors]) -> dict[str, Any] | None:
    """Return whether scores say how often detections are matches.

    Args:
        images: see `detection_errors`.

    Returns:
        See `evaluation.statistics.calibration.calibration` for a binary task, without a
        temperature; None without detections or if a score is outside [0, 1].
    """
    scores, matched = matched_scores(images)
    if not scores.size or scores.min() < 0 or scores.max() > 1:
        return None
    found = calibration(matched.astype(np.int64), scores, "binary")
    found["undefined"].pop("temperature")  # none is asked for
    if "log_loss" in found["undefined"]:
        found["undefined"]["log_loss"] = "a detection of score 1 is no match, or one of score 0 is"
    return found


class _Scene(NamedTuple):
    """The D detections by descending score, and the G objects of one image, without crowds.

    Attributes:
        rows: D positions in the results.
        numbers: G positions in the annotations.
        classes: (D,) category ids.
        true_classes: (G,) category ids.
        scores: D scores.
        areas: D areas in square pixels.
        true_areas: G areas in square pixels.
        iou: (D, G).
        in_crowd: (D,) largest share of the detection in a crowd region of its class.
    """

    rows: list[int]
    numbers: list[int]
    classes: IntArray
    true_classes: IntArray
    scores: list[float]
    areas: list[float]
    true_areas: list[float]
    iou: FloatArray
    in_crowd: FloatArray


def _scene(
    annotations: Sequence[Mapping[str, Any]],
    numbers: list[int],
    results: Sequence[Row],
    rows: list[int],
    size: tuple[int, int],
    iou_type: IouType,
) -> _Scene:
    """Return the overlaps of the detections and objects of one image."""
    from pycocotools import mask as coco_mask

    crowd = np.array([bool(annotations[n].get("iscrowd", 0)) for n in numbers], dtype=bool)
    classes = np.array([results[n]["category_id"] for n in rows], dtype=np.int64)
    true_classes = np.array([annotations[n]["category_id"] for n in numbers], dtype=np.int64)
    overlap, areas = np.zeros((len(rows), len(numbers))), []
    if rows:
        shapes = regions([results[n] for n in rows], size, iou_type)
        if iou_type == "segm":
            # One by one: pycocotools 2.0.11 refuses more than 255 masks at once.
            areas = [float(coco_mask.area(shape)) for shape in shapes]
        else:
            areas = [float(w * h) for _, _, w, h in shapes]
        if numbers:
            truth = regions([annotations[n] for n in numbers], size, iou_type)
            overlap = np.asarray(coco_mask.iou(shapes, truth, crowd.tolist()), dtype=np.float64)
    of_class = classes[:, None] == true_classes[None, crowd]
    kept = [n for n, is_crowd in zip(numbers, crowd.tolist(), strict=True) if not is_crowd]
    return _Scene(
        rows=rows,
        numbers=kept,
        classes=classes,
        true_classes=true_classes[~crowd],
        scores=[float(results[n]["score"]) for n in rows],
        areas=areas,
        true_areas=[float(annotations[n]["area"]) for n in kept],
        iou=overlap[:, ~crowd],
        in_crowd=np.max(overlap[:, crowd] * of_class, axis=1, initial=0.0),
    )


def _judge(key: Any, scene: _Scene, foreground: float, background: float) -> ImageErrors:
    """Give each detection and object of an image its kind."""
    same = scene.classes[:, None] == scene.true_classes[None, :]
    own, other = scene.iou * same, scene.iou * ~same
    partner = _match(own, foreground)
    kinds, nearest = _kinds(own, other, partner, foreground, background)
    overlap = _take(scene.iou, nearest)
    free = np.ones(len(scene.numbers), dtype=bool)
    free[partner[partner >= 0]] = False
    state: dict[int, tuple[str, int]] = {}  # what explains an object: kind, detection
    detections = []
    for d, kind in enumerate(kinds):
        g = int(nearest[d])
        fixable = kind in ("cls", "loc") and bool(free[g]) and g not in state
        if kind == MATCH or fixable:
            state[g] = (kind, d)
        detections.append(
            DetectionRecord(
                row=scene.rows[d],
                category_id=int(scene.classes[d]),
                score=scene.scores[d],
                kind=kind,
                truth=None if kind == "bkg" else scene.numbers[g],
                iou=float(overlap[d]),
                area=scene.areas[d],
                truth_category_id=None if kind == "bkg" else int(scene.true_classes[g]),
                truth_area=None if kind == "bkg" else scene.true_areas[g],
                crowd=kind != MATCH and bool(scene.in_crowd[d] > foreground),
                fixable=fixable,
            )
        )
    objects = []
    for g, number in enumerate(scene.numbers):
        kind, d = state.get(g, ("miss", -1))
        objects.append(
            ObjectRecord(
                truth=number,
                category_id=int(scene.true_classes[g]),
                kind=kind,
                row=None if d < 0 else scene.rows[d],
                iou=float(scene.iou[d, g] if d >= 0 else scene.iou[:, g].max(initial=0.0)),
                area=scene.true_areas[g],
            )
        )
    return ImageErrors(key, tuple(detections), tuple(objects))


def _match(own: FloatArray, foreground: float) -> IntArray:
    """Return (D,) the object of each detection, -1 without a match."""
    partner = np.full(len(own), -1, dtype=np.int64)
    among = own.copy()
    for d in np.flatnonzero(own.max(axis=1, initial=0.0) >= foreground):
        best = int(among[d].argmax())
        if among[d, best] >= foreground:
            partner[d] = best
            among[:, best] = 0.0
    return partner


def _kinds(
    own: FloatArray, other: FloatArray, partner: IntArray, foreground: float, background: float
) -> tuple[list[str], IntArray]:
    """Return the kind of each detection and the object that it is judged by, -1 without objects.

    Args:
        own: (D, G) IoU with objects of the class of the detection, 0 elsewhere.
        other: (D, G) IoU with objects of other classes, 0 elsewhere.
        partner: (D,) matched objects.
        foreground: threshold of a match.
        background: threshold of an overlap.
    """
    if own.shape[1] == 0:
        return ["bkg"] * len(own), np.full(len(own), -1, dtype=np.int64)
    used = np.zeros(own.shape[1], dtype=bool)
    used[partner[partner >= 0]] = True
    taken, any_class = own * used, own + other
    of_own, of_other, of_taken, of_any = (a.argmax(axis=1) for a in (own, other, taken, any_class))
    largest = _take(own, of_own)
    tests = {
        MATCH: (partner >= 0, partner),
        "loc": ((largest >= background) & (largest <= foreground), of_own),
        "cls": (_take(other, of_other) >= foreground, of_other),
        "dupe": (_take(taken, of_taken) >= foreground, of_taken),
        "bkg": (_take(any_class, of_any) <= background, of_any),
        "both": (np.ones(len(own), dtype=bool), of_any),
    }
    names = list(tests)
    first = np.argmax([test for test, _ in tests.values()], axis=0)
    nearest = np.choose(first, [objects for _, objects in tests.values()])
    return [names[n] for n in first], nearest


def _take(values: FloatArray, places: IntArray) -> FloatArray:
    """Return (D,) the value of each row at its place, 0 where there are no columns."""
    if values.shape[1] == 0:
        return np.zeros(len(values))
    found: FloatArray = np.take_along_axis(values, places[:, None], axis=1)[:, 0]
    return found


__all__ = [
    "BACKGROUND",
    "FIXES",
    "FOREGROUND",
    "KINDS",
    "MATCH",
    "DetectionRecord",
    "ErrorSummary",
    "ImageErrors",
    "ObjectRecord",
    "calibration_of_matches",
    "detection_errors",
    "error_summary",
    "matched_scores",
]
