"""Reading, checking and writing the JSON files that scores are computed from.

Ground truth is a COCO instances file; results are the COCO results list: a row for a detection,
with ``image_id``, ``category_id``, ``score`` and ``bbox`` (x, y, width, height) or ``segmentation``
(RLE) or both. A file that cannot be scored is refused with its name, the place and the remedy,
because the COCO tools ignore most mistakes and return a lower number instead.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from structures import rle

Row = dict[str, Any]
GroundTruth = Mapping[str, Any]


def write_json(path: str | Path, payload: Any, *, indent: int | None = None) -> Path:
    """Write JSON so that a reader sees the old file or the whole new one, never a part.

    Numbers keep full precision; NaN and infinity, which JSON does not have, become ``null``;
    numpy scalars and arrays become numbers and lists.

    Args:
        path: file to write; missing folders are made.
        payload: plain containers, numbers, text, numpy scalars and arrays.
        indent: spaces a level, or None for one line.

    Returns:
        The path written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(payload, allow_nan=False, default=_from_numpy, indent=indent)
    except ValueError:  # a NaN somewhere: walk the payload only then, results lists are long
        text = json.dumps(_without_nan(payload), allow_nan=False, indent=indent)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load_ground_truth(path: str | Path) -> dict[str, Any]:
    """Read a COCO instances file and check everything that scoring relies on.

    Returns:
        The file's content.

    Raises:
        ValueError: see ``check_ground_truth``; or the file is missing or not JSON.
    """
    content = _read_json(path, "the annotations of a data set")
    check_ground_truth(content, str(path))
    return dict(content)


def load_results(path: str | Path, ground_truth: GroundTruth | None = None) -> list[Row]:
    """Read a COCO results file and check every row, including that each mask can be decoded.

    Args:
        path: JSON file holding a list of rows.
        ground_truth: the data set that the rows must refer to, or None to check the rows alone.

    Raises:
        ValueError: see ``check_results``; or the file is missing, not JSON, or not a list.
    """
    rows = _read_json(path, "a COCO results list")
    if isinstance(rows, Mapping) and "annotations" in rows:
        raise ValueError(
            f"{path}: this is an annotations file; results are a list of rows with image_id, "
            "category_id, score and bbox or segmentation"
        )
    if not isinstance(rows, list):
        raise ValueError(
            f"{path}: results must be a list of rows, got {type(rows).__name__}; write "
            '[{"image_id": ..., "category_id": ..., "score": ..., "segmentation": ...}, ...]'
        )
    check_results(rows, ground_truth, str(path))
    for number, row in enumerate(rows):
        if "segmentation" in row:
            _check_runs(row["segmentation"], f"{path}: row {number}")
    return rows


def check_ground_truth(content: Any, source: str = "ground truth") -> None:
    """Refuse ground truth that would be scored wrongly or not at all.

    Args:
        content: what a COCO instances file holds.
        source: how to name it in messages.

    Raises:
        ValueError: a list or a key is missing, an id occurs twice or is unknown, a size, a box or
            an area is not a number, or an RLE has another size than its picture.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{source}: must be an object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"{source}: has no list {key!r}; give a COCO instances file")
    _require(content["images"], ("id", "height", "width"), f"{source}: images")
    _require(content["categories"], ("id", "name"), f"{source}: categories")
    keys = ("id", "image_id", "category_id", "bbox", "area")
    _require(content["annotations"], keys, f"{source}: annotations")
    for key in ("images", "annotations", "categories"):
        _check_unique([record["id"] for record in content[key]], f"{source}: {key}")
    for image in content["images"]:
        if not all(_is_number(image[side]) and image[side] >= 1 for side in ("height", "width")):
            raise ValueError(
                f"{source}: image {image['id']} has height {image['height']!r} and width "
                f"{image['width']!r}; write its size in pixels"
            )
    sizes = picture_sizes(content)
    categories = {record["id"] for record in content["categories"]}
    for annotation in content["annotations"]:
        where = f"{source}: annotation {annotation['id']}"
        _check_reference(annotation, sizes, categories, where)
        _check_box(annotation["bbox"], where)
        if not _is_number(annotation["area"]):
            raise ValueError(f"{where}: area is {annotation['area']!r}; write a finite number")
        if isinstance(annotation.get("segmentation"), Mapping):
            _check_size(annotation["segmentation"], sizes[annotation["image_id"]], where)


def check_results(
    rows: Sequence[Mapping[str, Any]],
    ground_truth: GroundTruth | None = None,
    source: str = "results",
) -> None:
    """Refuse results that would be scored wrongly.

    Args:
        rows: a COCO results list.
        ground_truth: the data set that the rows must refer to, or None to check the rows alone.
        source: how to name the rows in messages.

    Raises:
        ValueError: a key is missing, a score or a box is not finite, an image or category id is
            unknown, a segmentation is not an RLE or has another size than its picture.
    """
    sizes = None if ground_truth is None else picture_sizes(ground_truth)
    categories = (
        set() if ground_truth is None else {record["id"] for record in ground_truth["categories"]}
    )
    _require(rows, ("image_id", "category_id", "score"), f"{source}: row")
    for number, row in enumerate(rows):
        if not _is_number(row["score"]):
            raise ValueError(
                f"{source}: row {number} (image {row['image_id']}): score is {row['score']!r}; "
                "write a finite number"
            )
        if "bbox" not in row and "segmentation" not in row:
            raise ValueError(
                f"{source}: row {number} has neither bbox nor segmentation; give one of them"
            )
        where = f"{source}: row {number}"
        if sizes is not None:
            _check_reference(row, sizes, categories, where)
        if "bbox" in row:
            _check_box(row["bbox"], where)
        if "segmentation" in row:
            size = None if sizes is None else sizes[row["image_id"]]
            _check_size(row["segmentation"], size, f"{where} (image {row['image_id']})")


def picture_sizes(ground_truth: GroundTruth) -> dict[Any, tuple[int, int]]:
    """Return (height, width) by image id."""
    return {
        image["id"]: (int(image["height"]), int(image["width"])) for image in ground_truth["images"]
    }


def _read_json(path: str | Path, what: str) -> Any:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the path of {what}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); give {what}") from error


def _require(records: Iterable[Any], keys: Sequence[str], where: str) -> None:
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise ValueError(f"{where} {number} is {type(record).__name__}, not an object")
        for key in keys:
            if key not in record:
                raise ValueError(f"{where} {number} has no {key!r}; it has {sorted(record)}")


def _check_unique(ids: Sequence[Any], where: str) -> None:
    seen: set[Any] = set()
    for identifier in ids:
        if identifier in seen:
            raise ValueError(f"{where}: id {identifier} occurs twice; number them anew")
        seen.add(identifier)


def _check_reference(
    record: Mapping[str, Any], images: Mapping[Any, Any], categories: set[Any], where: str
) -> None:
    if record["image_id"] not in images:
        raise ValueError(
            f"{where}: image_id {record['image_id']!r} is not among the {len(images)} pictures of "
            "the annotations; the two files must belong together"
        )
    if record["category_id"] not in categories:
        shown = sorted(categories, key=str) if len(categories) <= 12 else f"{len(categories)} ids"
        raise ValueError(
            f"{where}: category_id {record['category_id']!r} is not among the categories of the "
            f"annotations ({shown}); write the data set's own ids, not labels from 0"
        )


def _check_box(box: Any, where: str) -> None:
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{where}: bbox is {box!r}; write [x, y, width, height] in pixels")
    if box[2] < 0 or box[3] < 0:
        raise ValueError(
            f"{where}: bbox {list(box)} has a negative side; write [x, y, width, height]"
        )


def _check_size(mask: Any, size: tuple[int, int] | None, where: str) -> None:
    if not isinstance(mask, Mapping) or "size" not in mask or "counts" not in mask:
        raise ValueError(
            f'{where}: segmentation must be an RLE, {{"size": [height, width], "counts": ...}}'
        )
    if size is not None and tuple(mask["size"]) != size:
        raise ValueError(
            f"{where}: RLE of size {list(mask['size'])} in a picture of size {list(size)} (height, "
            "width); write masks in the frame of the original picture"
        )


def _check_runs(mask: Mapping[str, Any], where: str) -> None:
    counts = mask["counts"]
    try:
        runs = np.asarray(counts, dtype=np.int64) if isinstance(counts, list) else None
        runs = rle.from_bytes(counts) if runs is None else runs
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: RLE cannot be read ({error}); write it anew") from error
    total = int(mask["size"][0]) * int(mask["size"][1])
    if int(runs.sum()) != total or (runs.size and int(runs.min()) < 0):
        raise ValueError(
            f"{where}: RLE covers {int(runs.sum())} pixels, its size {list(mask['size'])} has "
            f"{total}; write it anew"
        )


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _from_numpy(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _without_nan(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def merge_categories(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return truth and results with every category merged into one, ``object`` with id 1."""
    truth = {
        **ground_truth,
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [{**a, "category_id": 1} for a in ground_truth["annotations"]],
    }
    return truth, [{**row, "category_id": 1} for row in results]
