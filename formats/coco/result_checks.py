"""Checks of the rows of a COCO results list; each fault is reported with row, reason and remedy.

Valid lists are recognised column by column, which for 50 000 rows takes a fraction of the time of
scoring them; rows are checked one by one only if a column is not valid.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from formats.coco.run_lengths import covered_pixels
from formats.coco.shapes import rle_reason
from structures import Problem

Row = dict[str, Any]
Sizes = Mapping[Any, tuple[int, int]]
_KEYS = ("image_id", "category_id", "score")
_NUMBERS = (int, float, np.integer, np.floating)


def find_result_problems(
    rows: Sequence[Any], ground_truth: Mapping[str, Any] | None, path: Path, *, decode: bool = False
) -> list[Problem]:
    """Check the rows of a COCO results list.

    Args:
        rows: the list.
        ground_truth: the valid data set that the rows must refer to, or None to check only the
            rows. Without ``categories``, any category is accepted.
        path: path of the file, for the messages.
        decode: also decode every run-length text.

    Returns:
        One problem for each fault, with the number of its row, starting at 0.
    """
    sizes = None if ground_truth is None else image_sizes(ground_truth)
    categories = None
    if ground_truth is not None and "categories" in ground_truth:
        categories = {category["id"] for category in ground_truth["categories"]}
    problems = []
    if not _are_sound(rows, sizes, categories):
        for number, row in enumerate(rows):
            for reason, remedy in _row_faults(row, sizes, categories):
                problems.append(_problem(path, number, row, reason, remedy))
    if decode:
        faulty = {problem.annotation for problem in problems}
        problems += [
            _problem(path, number, rows[number], reason, "write its mask again")
            for number, reason in _broken_masks(rows, faulty)
        ]
    return sorted(problems, key=lambda problem: int(problem.annotation or 0))


def image_sizes(ground_truth: Mapping[str, Any]) -> dict[Any, tuple[int, int]]:
    """Return (height, width) by image id."""
    return {
        image["id"]: (int(image["height"]), int(image["width"])) for image in ground_truth["images"]
    }


def _problem(path: Path, number: int, row: Any, reason: str, remedy: str) -> Problem:
    image_id = row.get("image_id") if isinstance(row, Mapping) else None
    item = image_id if isinstance(image_id, int | str) else None
    return Problem(path, item, number, reason, remedy, part="row")


def _are_sound(
    rows: Sequence[Any], sizes: Sizes | None, categories: Collection[Any] | None
) -> bool:
    """Return True if a quick check shows that no row has a fault, False if unsure."""
    try:
        scores = [row["score"] for row in rows]
        images = [row["image_id"] for row in rows]
        classes = {row["category_id"] for row in rows}
        boxes = [row["bbox"] for row in rows if "bbox" in row]
        bare = any("bbox" not in row and "segmentation" not in row for row in rows)
        known = _all_in(images, sizes) and _all_in(classes, categories)
        return known and not bare and _finite(scores) and _boxes(boxes) and _masks(rows, sizes)
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def _all_in(used: Iterable[Any], table: Collection[Any] | None) -> bool:
    numbers = set(used)
    return table is None or (bool not in set(map(type, numbers)) and numbers <= set(table))


def _finite(values: Sequence[Any]) -> bool:
    kinds = set(map(type, values))
    plain = all(issubclass(kind, _NUMBERS) and kind is not bool for kind in kinds)
    return plain and bool(np.isfinite(np.array(values, float)).all())


def _boxes(boxes: Sequence[Any]) -> bool:
    if not boxes:
        return True
    if not set(map(type, boxes)) <= {list} or set(map(len, boxes)) != {4}:
        return False
    flat = list(chain.from_iterable(boxes))
    return _finite(flat) and bool((np.array(flat, float).reshape(-1, 4)[:, 2:] >= 0).all())


def _masks(rows: Sequence[Any], sizes: Sizes | None) -> bool:
    # a plain loop that creates no containers, which would trigger the garbage collector
    expected = {} if sizes is None else {number: list(size) for number, size in sizes.items()}
    for row in rows:
        if "segmentation" in row:
            mask = row["segmentation"]
            size = mask["size"]
            fits = len(size) == 2 and type(size[0]) is int and type(size[1]) is int
            if not fits or type(mask) is not dict or "counts" not in mask:
                return False
            if sizes is not None and size != expected[row["image_id"]]:
                return False
    return True


def _row_faults(
    row: Any, sizes: Sizes | None, categories: Collection[Any] | None
) -> Iterator[tuple[str, str]]:
    """Yield reason and remedy of every fault of a row."""
    if not isinstance(row, Mapping):
        yield f"is {type(row).__name__}, not an object", "write an object or remove it"
        return
    missing = [key for key in _KEYS if key not in row]
    if missing:
        yield f"has no {', '.join(missing)}", "add it or remove the row"
    if "score" in row and not is_number(row["score"]):
        yield f"score is {row['score']!r}", "write a finite number"
    if "bbox" not in row and "segmentation" not in row:
        yield "has neither bbox nor segmentation", "give one of them"
    yield from _unknown_ids(row, sizes, categories)
    if "bbox" in row and (reason := box_reason(row["bbox"])):
        yield reason, "write [x, y, width, height] in pixels"
    if "segmentation" in row and (fault := _mask_fault(row, sizes)):
        yield fault


def _unknown_ids(
    row: Mapping[str, Any], sizes: Sizes | None, categories: Collection[Any] | None
) -> Iterator[tuple[str, str]]:
    if sizes is not None and "image_id" in row and not _is_in(row["image_id"], sizes):
        reason = f"image_id {row['image_id']!r} is not among the {len(sizes)} images"
        yield reason, "give the annotations that the predictions belong to"
    if categories is not None and "category_id" in row:
        if _is_in(row["category_id"], categories):
            return
        shown = sorted(categories, key=str) if len(categories) <= 12 else f"{len(categories)} ids"
        reason = f"category_id {row['category_id']!r} is not among the categories ({shown})"
        yield reason, "write the category ids of the data set, not labels from 0"


def _is_in(value: Any, table: Collection[Any]) -> bool:
    return isinstance(value, int | float | str) and type(value) is not bool and value in table


def box_reason(box: Any) -> str:
    """Return the fault of a box of a result, or nothing; its position does not matter."""
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_number, box)):
        return f"bbox is {box!r}"
    # a detector may predict a box without area, which lowers only its own score  # A54
    return f"bbox {list(box)} has a negative side" if min(box[2:]) < 0 else ""


def _mask_fault(row: Mapping[str, Any], sizes: Sizes | None) -> tuple[str, str] | None:
    mask = row["segmentation"]
    if not isinstance(mask, Mapping) or not {"size", "counts"} <= set(mask):
        remedy = 'write {"size": [height, width], "counts": ...}'
        return "segmentation is not an RLE with size and counts", remedy
    size = mask["size"]
    if not isinstance(size, list | tuple) or not _are_sides(size):
        return f"RLE has the size {size!r}", "write [height, width] in whole pixels"
    expected = None if sizes is None or not _is_in(row.get("image_id"), sizes) else row["image_id"]
    if sizes is not None and expected is not None and tuple(size) != sizes[expected]:
        reason = f"RLE of size {list(size)} in an image of size {list(sizes[expected])}"
        return reason, "write masks as [height, width] of the original image"
    return None


def _are_sides(size: Sequence[Any]) -> bool:
    whole = [isinstance(side, int | np.integer) and type(side) is not bool for side in size]
    return whole == [True, True]


def _broken_masks(rows: Sequence[Any], faulty: Collection[Any]) -> Iterator[tuple[int, str]]:
    """Yield number and reason of rows whose run lengths do not cover their own size."""
    numbers = [n for n, row in enumerate(rows) if n not in faulty and "segmentation" in row]
    masks = {n: rows[n]["segmentation"] for n in numbers}
    texts = {n: mask["counts"] for n, mask in masks.items() if isinstance(mask["counts"], str)}
    covered = dict(zip(texts, covered_pixels(texts.values()).tolist(), strict=True))
    for number, mask in masks.items():
        height, width = mask["size"]
        if covered.get(number) != height * width:
            record = {"size": [height, width], "counts": mask["counts"]}
            if reason := rle_reason(record, height, width):
                yield number, reason


def is_number(value: Any) -> bool:
    """Return whether a value is a finite Python or numpy number; booleans are not numbers."""
    if not isinstance(value, _NUMBERS) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False
