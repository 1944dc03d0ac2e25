"""COCO evaluation by one of two libraries: hotcoco (Rust, fast) and pycocotools (the reference).

Both get the same renumbered data, so they also agree where the libraries differ on raw files:
annotation id 0, which pycocotools treats as "no match", negative ids, ``ignore`` fields, and the
area of a detection that has a box and a mask.
"""

from __future__ import annotations

import contextlib
import gc
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from structures import rle

Backend = Literal["fast", "pycocotools"]
IouType = Literal["bbox", "segm"]
FloatArray = npt.NDArray[np.float64]

IOU_THRESHOLDS: FloatArray = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS: FloatArray = np.linspace(0.0, 1.0, 101)


class Accumulated(NamedTuple):
    """Accumulated arrays of a COCO evaluation; -1 where a class has no ground truth.

    T = 10 IoU thresholds, R = 101 recall thresholds, K categories by ascending id, A = 4 area
    ranges (all, small, medium, large), M detection caps in ascending order.

    Attributes:
        precision: (T, R, K, A, M), interpolated.
        recall: (T, K, A, M), the largest recall reached.
        scores: (T, R, K, A, M), the score at which each recall is reached.
    """

    precision: FloatArray
    recall: FloatArray
    scores: FloatArray


class CocoPair(NamedTuple):
    """Ground truth and detections as COCO dictionaries with new ids.

    Images and categories are numbered from 0 in ascending order of the old ids, annotations and
    detections from 1.
    """

    truth: dict[str, Any]
    detections: list[dict[str, Any]]


class ImageMatches(NamedTuple):
    """Matches of the D detections of one class in one image, sorted by descending score.

    T = 10 IoU thresholds.

    Attributes:
        image: number of the image by ascending id.
        category: number of the class by ascending id.
        area: number of the area range: all, small, medium, large.
        scores: (D,).
        hits: (T, D) bool, True for a match with a ground truth that counts in the area range.
        alarms: (T, D) bool, True for a false positive; the rest (crowds, other areas) is ignored.
        positives: number of ground truths that count in the area range.
    """

    image: int
    category: int
    area: int
    scores: FloatArray
    hits: npt.NDArray[np.bool_]
    alarms: npt.NDArray[np.bool_]
    positives: int


def accumulate(
    truth: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    iou_type: IouType,
    max_dets: Sequence[int],
    backend: Backend,
) -> Accumulated:
    """Match detections to ground truth and accumulate precision and recall.

    Args:
        truth: COCO ground truth; all its images are evaluated.
        rows: COCO results rows of these images, with ``bbox`` or ``segmentation`` as ``iou_type``
            needs.
        iou_type: overlap of boxes or of masks.
        max_dets: ascending caps on detections per image and class.
        backend: ``fast`` or ``pycocotools``.

    Raises:
        ValueError: an annotation lacks the mask that ``segm`` needs, or an unknown backend.
    """
    with _no_garbage_collection():
        evaluation = _evaluate(truth, rows, iou_type, max_dets, backend)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
    arrays = evaluation.eval or {}
    return Accumulated(*(np.asarray(arrays[name]) for name in Accumulated._fields))


def match_images(
    truth: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    iou_type: IouType,
    max_det: int,
    backend: Backend = "fast",
) -> list[ImageMatches]:
    """Match detections to ground truth and return the matches per image.

    Args:
        truth: see `accumulate`.
        rows: see `accumulate`.
        iou_type: see `accumulate`.
        max_det: cap on detections per image and class.
        backend: see `accumulate`.

    Returns:
        One entry for each image, class and area range with a ground truth or a detection.

    Raises:
        ValueError: see `accumulate`.
    """
    with _no_garbage_collection():
        evaluation = _evaluate(truth, rows, iou_type, [max_det], backend)
        fast = backend == "fast"
        found = evaluation.eval_imgs if fast else evaluation.evalImgs
        ranges = evaluation.params.area_rng if fast else evaluation.params.areaRng
        number = {tuple(area): a for a, area in enumerate(ranges)}
        return [_matches(one, number[tuple(one["aRng"])]) for one in found if one is not None]


def _matches(one: Mapping[str, Any], area: int) -> ImageMatches:
    shape = len(IOU_THRESHOLDS), len(one["dtScores"])
    matched = np.asarray(one["dtMatches"]).reshape(shape) > 0
    counts = ~np.asarray(one["dtIgnore"], dtype=bool).reshape(shape)
    return ImageMatches(
        image=int(one["image_id"]),
        category=int(one["category_id"]),
        area=area,
        scores=np.asarray(one["dtScores"], dtype=np.float64),
        hits=matched & counts,
        alarms=~matched & counts,
        positives=int((~np.asarray(one["gtIgnore"], dtype=bool)).sum()),
    )


def _evaluate(
    truth: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    iou_type: IouType,
    max_dets: Sequence[int],
    backend: Backend,
) -> Any:
    """Return the evaluation object of the library after matching."""
    if backend not in ("fast", "pycocotools"):
        raise ValueError(f"unknown backend {backend!r}; choose 'fast' or 'pycocotools'")
    run = _with_hotcoco if backend == "fast" else _with_pycocotools
    return run(_renumber(truth, rows, iou_type), iou_type, list(max_dets))


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable the garbage collector, which the many new dictionaries would trigger repeatedly."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _renumber(
    truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], iou_type: IouType
) -> CocoPair:
    images = sorted(truth["images"], key=lambda image: image["id"])
    image_number = {image["id"]: number for number, image in enumerate(images)}
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    category_number = {category["id"]: number for number, category in enumerate(categories)}
    annotations = [
        {
            "id": number,
            "image_id": image_number[annotation["image_id"]],
            "category_id": category_number[annotation["category_id"]],
            "bbox": annotation["bbox"],
            "area": annotation["area"],
            "iscrowd": int(annotation.get("iscrowd", 0)),
            **_segmentation(annotation, iou_type),
        }
        for number, annotation in enumerate(truth["annotations"], start=1)
    ]
    detections = [
        {
            "id": number,
            "image_id": image_number[row["image_id"]],
            "category_id": category_number[row["category_id"]],
            "score": float(row["score"]),
            "iscrowd": 0,
            **(
                {"bbox": row["bbox"], "area": row["bbox"][2] * row["bbox"][3]}
                if iou_type == "bbox"
                else {"segmentation": _compressed(row["segmentation"])}
            ),
        }
        for number, row in enumerate(rows, start=1)
    ]
    dataset = {
        "info": {},
        "images": [
            {"id": number, "height": int(image["height"]), "width": int(image["width"])}
            for number, image in enumerate(images)
        ],
        "categories": [{"id": number, "name": str(number)} for number in range(len(categories))],
        "annotations": annotations,
    }
    return CocoPair(dataset, detections)


def _segmentation(annotation: Mapping[str, Any], iou_type: IouType) -> dict[str, Any]:
    if iou_type == "bbox":
        return {}
    if not annotation.get("segmentation"):
        raise ValueError(
            f"annotation {annotation['id']} of image {annotation['image_id']} has no segmentation, "
            "so masks cannot be scored; add it or score boxes only (iou_types=('bbox',))"
        )
    return {"segmentation": annotation["segmentation"]}


def _compressed(mask: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an RLE whose counts are text, which both libraries read."""
    counts = mask["counts"]
    if isinstance(counts, str):
        return mask
    if isinstance(counts, list):
        counts = rle.to_bytes(np.asarray(counts, dtype=np.int64))
    return {"size": mask["size"], "counts": counts.decode("ascii")}


def _with_hotcoco(pair: CocoPair, iou_type: IouType, max_dets: list[int]) -> Any:
    import hotcoco

    truth = hotcoco.COCO(pair.truth)
    if pair.detections:
        detections = truth.load_res(pair.detections)  # adds the areas of masks, in the same order
    else:
        shared = {key: pair.truth[key] for key in ("images", "categories")}
        detections = hotcoco.COCO({**shared, "annotations": []})
    evaluation = hotcoco.COCOeval(truth, detections, iou_type)
    evaluation.params.iou_thrs = IOU_THRESHOLDS.tolist()
    evaluation.params.rec_thrs = RECALL_THRESHOLDS.tolist()
    evaluation.params.max_dets = max_dets
    evaluation.evaluate()
    return evaluation


def _with_pycocotools(pair: CocoPair, iou_type: IouType, max_dets: list[int]) -> Any:
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if iou_type == "segm":
        for detection in pair.detections:
            detection["area"] = float(coco_mask.area(detection["segmentation"]))
    shared = {key: pair.truth[key] for key in ("images", "categories")}
    # The library prints its progress, which is not needed here.
    with contextlib.redirect_stdout(io.StringIO()):
        truth, detections = COCO(), COCO()
        truth.dataset = pair.truth
        truth.createIndex()
        detections.dataset = {**shared, "annotations": pair.detections}
        detections.createIndex()
        evaluation = COCOeval(truth, detections, iou_type)
        evaluation.params.iouThrs = IOU_THRESHOLDS
        evaluation.params.recThrs = RECALL_THRESHOLDS
        evaluation.params.maxDets = max_dets
        evaluation.evaluate()
    return evaluation
