"""COCO average precision and recall of boxes and masks, from run-length codes only.

Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014). The protocol is the same as in
the COCO API: greedy matching by score per image and class, precision interpolated at 101 recalls,
IoU .50:.05:.95. The names of the metrics are listed in ``evaluation/seg/coco_scores.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.seg.coco_backends import Backend, FloatArray, IouType, accumulate
from evaluation.seg.coco_scores import KIND, CocoScores, PrecisionRecall, summarise
from formats.coco.results import Row, check_ground_truth, check_results
from structures import CategoryMap, ImageId, Instances, rle


def evaluate_results(
    ground_truth: Mapping[str, Any],
    results: Sequence[Row],
    *,
    max_dets: Sequence[int] | int = 100,
    iou_types: Sequence[IouType] | None = None,
    backend: Backend = "fast",
    image_ids: Iterable[ImageId] | None = None,
) -> CocoScores:
    """Check ground truth and a COCO results list, and score them.

    Args:
        ground_truth: content of a COCO instances file. Size ranges use its ``area``.
        results: rows with the ids of the data set. Size ranges use the area of the mask for
            ``segm``, even if the row also has a box, and the area of the box for ``bbox``.
        max_dets: cap on detections per image and class, by score. A single number m, alone or in a
            list, means m and the smaller of the caps 1, 10 and 100; several numbers are used
            unchanged. AP and the ARs by size use the largest cap.
        iou_types: ``bbox``, ``segm`` or both; None for the types that all rows have.
        backend: ``fast`` (hotcoco) or ``pycocotools``; both give equal numbers.
        image_ids: images to evaluate, None for all images of the ground truth. An image without
            results counts as an image without detections.

    Raises:
        ValueError: invalid ground truth (see ``check_ground_truth``), rows that do not match it
            (see ``check_results``) or lack a key that ``iou_types`` needs, an unknown image in
            ``image_ids``, or an invalid ``max_dets``.
    """
    check_ground_truth(ground_truth)
    check_results(results, ground_truth)
    return score_results(
        ground_truth,
        results,
        max_dets=max_dets,
        iou_types=iou_types,
        backend=backend,
        image_ids=image_ids,
    )


def score_results(
    ground_truth: Mapping[str, Any],
    results: Sequence[Row],
    *,
    max_dets: Sequence[int] | int = 100,
    iou_types: Sequence[IouType] | None = None,
    backend: Backend = "fast",
    image_ids: Iterable[ImageId] | None = None,
) -> CocoScores:
    """Score a COCO results list without checking it again.

    Args:
        ground_truth: content of a COCO instances file, which has been checked.
        results: rows that have been checked against it.
        max_dets: see `evaluate_results`.
        iou_types: see `evaluate_results`.
        backend: see `evaluate_results`.
        image_ids: see `evaluate_results`.

    Raises:
        ValueError: rows lack a key that ``iou_types`` needs, an unknown image in ``image_ids``, or
            an invalid ``max_dets``.
    """
    types = _iou_types(ground_truth, results, iou_types)
    caps = detection_caps(max_dets)
    truth, rows = _restrict(ground_truth, results, image_ids)
    _warn_if_empty(rows, types)
    metrics: dict[str, float] = {}
    curves: dict[IouType, PrecisionRecall] = {}
    for iou_type in types:
        arrays = accumulate(truth, rows, iou_type, caps, backend)
        metrics |= summarise(arrays, KIND[iou_type], caps)
        curves[iou_type] = PrecisionRecall(
            arrays.precision[..., 0, -1].copy(),
            arrays.recall[..., 0, -1].copy(),
            arrays.scores[..., 0, -1].copy(),
        )
    categories = sorted((int(c["id"]), str(c["name"])) for c in truth["categories"])
    return CocoScores(
        metrics=metrics,
        max_dets=caps,
        categories=tuple(categories),
        truth_counts=_truth_counts(truth, [identifier for identifier, _ in categories]),
        num_images=len(truth["images"]),
        curves=curves,
    )


def detection_caps(max_dets: Sequence[int] | int) -> tuple[int, ...]:
    """Return the ascending detection caps that ``max_dets`` stands for.

    >>> detection_caps(500), detection_caps([50]), detection_caps([100, 20])
    ((1, 10, 100, 500), (1, 10, 50), (20, 100))

    Raises:
        ValueError: there is no cap, or a cap is below 1.
    """
    caps = {max_dets} if isinstance(max_dets, int) else {int(cap) for cap in max_dets}
    if len(caps) == 1:
        caps |= {cap for cap in (1, 10, 100) if cap < max(caps)}
    if not caps or min(caps) < 1:
        raise ValueError(f"max_dets must be at least 1, got {max_dets!r}")
    return tuple(sorted(caps))


class CocoEvaluator:
    """Collects predictions image by image and scores them.

    It stores boxes, scores, labels and compressed masks, but no pixels, so its memory grows only
    with the number of predictions. Use one per data set and process; ``merge`` joins processes.

    Args:
        category_map: mapping between labels and the category ids of the data set.
        max_dets: cap on detections per image and class (see ``evaluate_results``).
        backend: ``fast`` or ``pycocotools``.
        iou_types: ``bbox``, ``segm`` or both.
    """

    def __init__(
        self,
        category_map: CategoryMap,
        max_dets: int = 100,
        backend: Backend = "fast",
        iou_types: Sequence[IouType] = ("bbox", "segm"),
    ) -> None:
        self.category_map = category_map
        self.max_dets = max_dets
        self.backend: Backend = backend
        self.iou_types = tuple(iou_types)
        self._images: dict[Any, _Image] = {}  # by image id

    def __len__(self) -> int:
        """Return the number of images added."""
        return len(self._images)

    def add(self, image_id: ImageId, instances: Instances) -> None:
        """Add the predictions of one image; an image that was already added is not changed.

        A sample that a distributed sampler repeats therefore counts once.

        Raises:
            ValueError: ``segm`` is evaluated but there are no masks, or a label is unknown.
        """
        if image_id in self._images:
            return
        if instances.masks is None and "segm" in self.iou_types:
            raise ValueError(
                f"the predictions of image {image_id} have no masks; evaluate with "
                "iou_types=('bbox',) or give a model that predicts masks"
            )
        labels = instances.labels.detach().cpu().numpy().astype(np.int64)
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.category_map):
            raise ValueError(
                f"image {image_id} has labels {sorted(set(labels.tolist()))}, but the data set has "
                f"{len(self.category_map)} classes, numbered from 0"
            )
        masks = None if instances.masks is None else instances.masks.to_coco()
        self._images[image_id] = _Image(
            size=(int(instances.size[0]), int(instances.size[1])),
            labels=labels,
            scores=instances.scores.detach().cpu().double().numpy(),
            boxes=instances.boxes.detach().cpu().double().numpy(),
            counts=None if masks is None else [str(mask["counts"]) for mask in masks],
        )

    def reset(self) -> None:
        """Remove all images."""
        self._images.clear()

    def state(self) -> dict[ImageId, tuple[Any, ...]]:
        """Return the predictions as picklable tuples and arrays, for another process."""
        return {image_id: tuple(image) for image_id, image in self._images.items()}

    def merge(self, states: Iterable[Mapping[ImageId, tuple[Any, ...]]]) -> None:
        """Add the images in the ``state`` of other processes; existing images are not changed."""
        for state in states:
            for image_id, image in state.items():
                self._images.setdefault(image_id, _Image(*image))

    def results(self) -> list[Row]:
        """Return the COCO results list, sorted by image id.

        Numbers are exact, so that the list gives the same scores after it is written and read.
        """
        return [
            row
            for image_id in sorted(self._images)
            for row in self._images[image_id].rows(image_id, self.category_map)
        ]

    def compute(self, ground_truth: Mapping[str, Any]) -> CocoScores:
        """Score the added images against ground truth with the ids of the data set.

        Categories that only the model knows are added without instances, which changes no mean.

        Args:
            ground_truth: content of a COCO instances file, checked when it was read. Its images
                for which no predictions were added are left out, with one warning.

        Raises:
            ValueError: no image was added, an image is unknown or has another size in the ground
                truth, a category id has another name there, or a score or a box is not finite.
        """
        truth, rows = self.checked(ground_truth)
        return score_results(
            truth,
            rows,
            max_dets=self.max_dets,
            iou_types=self.iou_types,
            backend=self.backend,
        )

    def checked(self, ground_truth: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Row]]:
        """Return the ground truth of the added images and their rows; see `compute`."""
        if not self._images:
            raise ValueError("no predictions were added, so there is nothing to score")
        self._check_images(ground_truth)
        truth = {**ground_truth, "categories": self._all_categories(ground_truth)}
        rows = self.results()
        check_results(rows, truth)
        return _restrict(truth, rows, self._images)[0], rows

    def _check_images(self, ground_truth: Mapping[str, Any]) -> None:
        images = {image["id"]: image for image in ground_truth["images"]}
        for image_id, image in self._images.items():
            if image_id not in images:
                raise ValueError(f"image {image_id} is not in the ground truth")
            size = (int(images[image_id]["height"]), int(images[image_id]["width"]))
            if image.size != size:
                raise ValueError(
                    f"image {image_id} was predicted at (height, width) {image.size}, the ground "
                    f"truth says {size}; return predictions in the size of the original image"
                )
        if len(self._images) < len(images):
            warnings.warn(
                f"scoring {len(self._images)} of the {len(images)} images of the ground truth",
                stacklevel=3,
            )

    def _all_categories(self, ground_truth: Mapping[str, Any]) -> list[dict[str, Any]]:
        names = {int(c["id"]): str(c["name"]) for c in ground_truth["categories"]}
        missing = []
        for category in self.category_map.to_coco():
            known = names.get(category["id"])
            if known is None:
                missing.append(category)
            elif known != category["name"]:
                raise ValueError(
                    f"category id {category['id']} is {category['name']!r} for the model and "
                    f"{known!r} in the ground truth; the two do not belong together"
                )
        return [*ground_truth["categories"], *missing]


class _Image(NamedTuple):
    """The K predictions of one image in compact form, masks as COCO text."""

    size: tuple[int, int]
    labels: npt.NDArray[np.int64]
    scores: FloatArray
    boxes: FloatArray
    counts: list[str] | None

    def rows(self, image_id: ImageId, category_map: CategoryMap) -> list[Row]:
        """Return the rows of a COCO results list."""
        corner, side = self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]
        boxes = np.concatenate([corner, side], axis=1).tolist()
        rows: list[Row] = [
            {
                "image_id": image_id,
                "category_id": category_map.ids[label],
                "bbox": box,
                "score": score,
            }
            for label, box, score in zip(
                self.labels.tolist(), boxes, self.scores.tolist(), strict=True
            )
        ]
        if self.counts is not None:
            for row, counts in zip(rows, self.counts, strict=True):
                row["segmentation"] = {"size": list(self.size), "counts": counts}
        return rows


def _iou_types(
    ground_truth: Mapping[str, Any], rows: Sequence[Row], wanted: Sequence[IouType] | None
) -> tuple[IouType, ...]:
    key: dict[IouType, str] = {"bbox": "bbox", "segm": "segmentation"}
    if wanted is None:
        judged = rows or ground_truth["annotations"]
        wanted = [kind for kind in key if all(row.get(key[kind]) for row in judged)]
        if not wanted:
            raise ValueError("some rows have only a bbox and others only a segmentation")
    unknown = [kind for kind in wanted if kind not in key]
    if unknown or not wanted:
        raise ValueError(f"iou_types must be 'bbox', 'segm' or both, got {list(wanted)}")
    for kind in wanted:
        for number, row in enumerate(rows):
            if key[kind] not in row:
                raise ValueError(
                    f"results row {number} (image {row['image_id']}) has no {key[kind]!r}, "
                    f"which iou_types={list(wanted)} needs"
                )
    return tuple(dict.fromkeys(wanted))


def _restrict(
    ground_truth: Mapping[str, Any], rows: Sequence[Row], image_ids: Iterable[ImageId] | None
) -> tuple[Mapping[str, Any], Sequence[Row]]:
    if image_ids is None:
        return ground_truth, rows
    keep = set(image_ids)
    unknown = keep - {image["id"] for image in ground_truth["images"]}
    if unknown:
        raise ValueError(f"image_ids {sorted(unknown)[:10]} are not in the ground truth")
    truth = {
        **ground_truth,
        "images": [image for image in ground_truth["images"] if image["id"] in keep],
        "annotations": [a for a in ground_truth["annotations"] if a["image_id"] in keep],
    }
    return truth, [row for row in rows if row["image_id"] in keep]


def _warn_if_empty(rows: Sequence[Row], types: Sequence[IouType]) -> None:
    if "segm" not in types or not rows:
        return
    if not any(_has_pixels(row["segmentation"]) for row in rows):
        warnings.warn(
            f"all {len(rows)} predicted masks are empty, so mask AP is 0; check that masks are "
            "thresholded and pasted into the image",
            stacklevel=3,
        )


def _has_pixels(mask: Mapping[str, Any]) -> bool:
    counts = mask["counts"]
    runs = np.asarray(counts) if isinstance(counts, list) else rle.from_bytes(counts)
    return rle.area(runs) > 0


def _truth_counts(truth: Mapping[str, Any], ids: Sequence[int]) -> npt.NDArray[np.int64]:
    position = {identifier: k for k, identifier in enumerate(ids)}
    counts = np.zeros(len(ids), dtype=np.int64)
    for annotation in truth["annotations"]:
        if not annotation.get("iscrowd", 0):
            counts[position[annotation["category_id"]]] += 1
    return counts
