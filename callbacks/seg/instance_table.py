"""Rows of the W&B table of instances: each prediction and each missed object of the gallery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from callbacks.seg.image_table import coco_records
from evaluation.report.errors import MATCH, ImageErrors, detection_errors
from loggers.wandb_media import MAX_MASK_ID, Media, class_ids
from structures import Instances, rle

if TYPE_CHECKING:
    from callbacks.seg.gallery import ShownImage

COLUMNS = ("crop", "image", "class", "true class", "score", "IoU", "error", "area")
MAX_ROWS = 1000  # A848
CROP_SIDE = 192  # pixels of the longer side; larger crops are reduced
_MARGIN = 0.25  # of the side of the box, on each side
_LEAST_MARGIN = 4  # pixels

Window = tuple[int, int, int, int]


class _Row(NamedTuple):
    """One row: the instance ``position`` of the predictions or, for a miss, of the objects."""

    image: int
    position: int
    error: str
    rank: float
    true_label: int | None
    iou: float
    area: float


def instance_rows(
    images: Sequence[ShownImage], class_names: Sequence[str], *, class_agnostic: bool = False
) -> list[list[Any]]:
    """Return one row per prediction or missed object, with the columns `COLUMNS`.

    ``error`` is ``match`` for a prediction that is right, ``cls``, ``loc``, ``both``, ``dupe`` or
    ``bkg`` for one that is wrong, ``crowd`` in a crowd region, and ``miss`` for an object that no
    prediction explains (`evaluation.report.errors`). Errors come before matches; of each kind the
    most confident predictions, or the largest objects, come first, and kinds take turns, so that
    all of them are among the first `MAX_ROWS` rows.

    Args:
        images: the images.
        class_names: name of each class, indexed by label.
        class_agnostic: whether any object may match any prediction.
    """
    rows = sorted(_all_rows(images, class_agnostic), key=lambda row: -row.rank)
    before: Counter[str] = Counter()
    turns = []
    for row in rows:
        turns.append((row.error in (MATCH, "crowd"), before[row.error]))
        before[row.error] += 1
    order = sorted(range(len(rows)), key=turns.__getitem__)[:MAX_ROWS]
    labels = [label for one in images for label in _labels(one)]
    ids = class_ids(labels, len(class_names))
    return [_cells(rows[k], images[rows[k].image], class_names, ids) for k in order]


def _all_rows(images: Sequence[ShownImage], class_agnostic: bool) -> Iterator[_Row]:
    for number, (one, errors) in enumerate(
        zip(images, _errors(images, class_agnostic), strict=True)
    ):
        labels = one.truth.labels.tolist()
        for found in errors.detections:
            true_label = None if found.truth is None else labels[found.truth]
            error = "crowd" if found.crowd else found.kind
            area = found.area * one.reduction
            yield _Row(number, found.row, error, found.score, true_label, found.iou, area)
        for lost in errors.missed:
            area = lost.area * one.reduction
            yield _Row(number, lost.truth, "miss", area, labels[lost.truth], lost.iou, area)


def _errors(images: Sequence[ShownImage], class_agnostic: bool) -> Iterator[ImageErrors]:
    """Yield the errors of each image, of the predictions that are shown (A847)."""
    for one in images:
        truth = coco_records(one.truth, one.crowd.tolist())
        found = coco_records(one.prediction)
        masks = one.truth.masks is not None and one.prediction.masks is not None
        for records, instances in ((truth, one.truth), (found, one.prediction)):
            for record, label in zip(records, instances.labels.tolist(), strict=True):
                record["category_id"] = 0 if class_agnostic else label
                record["area"] = record["bbox"][2] * record["bbox"][3]
        if masks and one.truth.masks is not None:
            for record, area in zip(truth, one.truth.masks.areas().tolist(), strict=True):
                record["area"] = float(area)
        height, width = one.truth.size
        document = {
            "images": [{"id": 0, "height": height, "width": width}],
            "annotations": truth,
            "categories": [],
        }
        most = max(len(found), 1)
        (errors,) = detection_errors(document, found, "segm" if masks else "bbox", max_dets=most)
        yield errors


def _labels(one: ShownImage) -> list[int]:
    return [*one.truth.labels.tolist(), *one.prediction.labels.tolist()]


def _cells(
    row: _Row, one: ShownImage, class_names: Sequence[str], ids: Mapping[int, int]
) -> list[Any]:
    """Return the cells of a row."""
    missed = row.error == "miss"
    instances = one.truth if missed else one.prediction
    label = int(instances.labels[row.position])
    name = class_names[label]
    caption = f"{one.name}: {row.error}, {name}"
    kind = "truth" if missed else "prediction"
    return [
        _crop(one.image, instances, row.position, kind, caption, name, ids[label]),
        one.name.removeprefix("image "),
        name,
        None if row.true_label is None else class_names[row.true_label],
        None if missed else float(instances.scores[row.position]),
        row.iou,
        row.error,
        row.area,
    ]


def _crop(
    image: npt.NDArray[np.uint8],
    instances: Instances,
    position: int,
    kind: str,
    caption: str,
    name: str,
    identifier: int,
) -> Media:
    """Return the surroundings of an instance, with its mask as an overlay that can be hidden."""
    left, top, right, bottom = _window(instances.boxes[position].tolist(), image.shape[:2])
    pixels = Image.fromarray(image[top:bottom, left:right])
    factor = min(1.0, CROP_SIDE / max(pixels.size))
    size = max(1, round(pixels.width * factor)), max(1, round(pixels.height * factor))
    shown = np.asarray(pixels.resize(size, reducing_gap=2.0) if factor < 1 else pixels)
    if instances.masks is None or identifier > MAX_MASK_ID:
        return Media(shown, caption)
    mask = rle.decode(instances.masks[position], instances.size)[top:bottom, left:right]
    values = Image.fromarray(mask.astype(np.uint8) * np.uint8(identifier))
    data = np.asarray(values.resize(size, Image.Resampling.NEAREST) if factor < 1 else values)
    names = {0: "background", identifier: name}
    return Media(shown, caption, {kind: {"mask_data": data, "class_labels": names}})


def _window(box: Sequence[float], size: tuple[int, ...]) -> Window:
    """Return (left, top, right, bottom) of a box with a margin, within an image (h, w)."""
    ends = []
    for low, high, side in ((box[0], box[2], size[1]), (box[1], box[3], size[0])):
        margin = max(_LEAST_MARGIN, _MARGIN * (high - low))
        start = min(max(0, int(low - margin)), side - 1)
        ends.append((start, max(start + 1, min(side, int(np.ceil(high + margin))))))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom
