"""Checks of COCO instances files, the same for training and for evaluation.

The checks read only the JSON file; image files are checked by `formats.coco.image_checks`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from formats.coco.run_lengths import covered_pixels
from formats.coco.shapes import box_reason, is_known, is_number, polygon_reason, rle_reason
from structures.problem import DataProblems, Problem

LISTS = ("images", "annotations", "categories")
_LARGEST_ID = 2**63


class CocoFindings(NamedTuple):
    """The result of a check.

    Attributes:
        problems: all problems: categories, then images, then annotations in the order of the file.
        fatal: True if a problem affects the whole file, so that leaving out records cannot help.
        data: the three lists without the records that have a problem, and without the annotations
            of images that have a problem.
    """

    problems: list[Problem]
    fatal: bool
    data: dict[str, list[dict[str, Any]]]


def read_json(path: Path, what: str) -> Any:
    """Parse a JSON file.

    Args:
        path: the file.
        what: description of the expected file, for the message.

    Raises:
        DataProblems: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        reason, remedy = "no such file", f"give the path of {what}"
    except OSError as error:
        reason, remedy = f"cannot be read ({error.strerror})", f"give the path of {what}"
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError
        reason, remedy = f"not valid JSON ({error})", f"export {what} again"
    raise DataProblems([Problem(path, None, None, reason, remedy)])


def load_coco(path: Path) -> dict[str, Any]:
    """Parse a COCO instances file and check that its three lists exist.

    Raises:
        DataProblems: the file is missing, is not JSON or lacks a list.
    """
    data = read_json(path, "the annotations of a data set")
    lacking = [k for k in LISTS if not isinstance(data, dict) or not isinstance(data.get(k), list)]
    if lacking:
        remedy = "a COCO instances file is an object with images, annotations and categories"
        raise DataProblems(
            [Problem(path, None, None, f"has no list {key!r}", remedy) for key in lacking]
        )
    content: dict[str, Any] = data
    return content


def check_coco(
    path: Path,
    data: Mapping[str, Sequence[Any]],
    image_keys: Sequence[str] = ("id", "height", "width"),
    annotation_keys: Sequence[str] = ("id", "image_id", "category_id", "segmentation"),
    unusable: Mapping[int, Problem] | None = None,
) -> CocoFindings:
    """Check the records of a parsed file.

    Args:
        path: path of the file, for the messages.
        data: the output of ``load_coco``.
        image_keys: keys that the record of an image must have.
        annotation_keys: keys that an annotation must have. ``segmentation``, ``bbox`` and ``area``
            are checked wherever they exist; an empty list of polygons is accepted unless
            ``segmentation`` is required.
        unusable: problems of image files, by position in ``data["images"]``.
    """
    problems: list[Problem] = []
    categories = _categories(path, data["categories"], problems)
    if not data["images"]:
        problems.append(Problem(path, None, None, "lists no image", "list the images"))
    fatal = bool(problems)
    images, faulty = _images(path, data["images"], image_keys, unusable or {}, problems)

    complete = _complete(path, data["annotations"], annotation_keys, "annotation", problems)
    judged = [a for _, a in complete if not is_known(a["image_id"], faulty)]
    known = {category["id"] for category in categories}
    masked = "segmentation" in annotation_keys
    annotations = []
    for annotation, covered in zip(judged, _covered(judged), strict=True):
        found = list(_annotation_problems(path, annotation, images, known))
        if reason := _mask_reason(annotation, images, covered, masked):
            remedy = "redraw or remove the annotation"
            found.append(Problem(path, annotation["image_id"], annotation["id"], reason, remedy))
        problems += found
        if not found:
            annotations.append(annotation)
    kept = {"images": list(images.values()), "annotations": annotations, "categories": categories}
    return CocoFindings(problems, fatal, kept)


def _categories(
    path: Path, records: Sequence[Any], problems: list[Problem]
) -> list[dict[str, Any]]:
    """Return the complete categories and append the problems of all categories."""
    categories = [c for _, c in _complete(path, records, ("id", "name"), "category", problems)]
    names = Counter(str(category["name"]) for category in categories)
    for name in sorted(name for name, count in names.items() if count > 1):
        reason = f"category name {name!r} occurs twice"
        problems.append(Problem(path, None, None, reason, "rename one"))
    if not records:
        problems.append(Problem(path, None, None, "declares no category", "declare the classes"))
    return categories


def _images(
    path: Path,
    records: Sequence[Any],
    keys: Sequence[str],
    unusable: Mapping[int, Problem],
    problems: list[Problem],
) -> tuple[dict[int, dict[str, Any]], set[int]]:
    """Return the valid images by id, and the ids of faulty ones, whose objects are not checked.

    The first of two images with the same id is kept.
    """
    sound: dict[int, dict[str, Any]] = {}
    for position, image in _complete(path, records, keys, "image", problems):
        fault = _image_problem(path, image) or unusable.get(position)
        if fault is None:
            sound[image["id"]] = image
        else:
            problems.append(fault)
    listed = {r["id"] for r in records if isinstance(r, dict) and type(r.get("id")) is int}
    return sound, listed - sound.keys()


def _complete(
    path: Path, records: Sequence[Any], keys: Sequence[str], kind: str, problems: list[Problem]
) -> list[tuple[int, dict[str, Any]]]:
    """Return the complete records with their positions; append the problems of the others."""
    good: list[tuple[int, dict[str, Any]]] = []
    seen: set[int] = set()
    for number, record in enumerate(records):
        fault = _record_fault(record, keys, f"{kind} number {number}", kind, seen)
        if fault is None:
            seen.add(record["id"])
            good.append((number, record))
            continue
        ids = record if isinstance(record, dict) else {}
        image_id = ids.get("id") if kind == "image" else ids.get("image_id")
        annotation_id = ids.get("id") if kind == "annotation" else None
        problems.append(Problem(path, image_id, annotation_id, *fault))
    return good


def _record_fault(
    record: Any, keys: Sequence[str], name: str, kind: str, seen: Collection[int]
) -> tuple[str, str] | None:
    """Return reason and remedy, or None if the record is complete and its id is new."""
    if not isinstance(record, dict):
        reason = f"{name} is {type(record).__name__}, not an object"
        return reason, f"write an object with {', '.join(keys)} or remove it"
    missing = [key for key in keys if key not in record]
    if missing:
        reason = f"{name} (id {record.get('id', '?')}) lacks {', '.join(missing)}"
        return reason, "add the key or remove the record"
    number = record["id"]
    if not isinstance(number, int) or isinstance(number, bool) or abs(number) >= _LARGEST_ID:
        return f"{name} has the id {number!r}, which is not an integer", "write an integer id"
    if number in seen:
        return f"{kind} id {number} occurs twice", "renumber one of them"
    return None


def _image_problem(path: Path, image: Mapping[str, Any]) -> Problem | None:
    size = (image["height"], image["width"])
    if not all(type(side) is int and 0 < side < _LARGEST_ID for side in size):
        reason, remedy = f"has size {size}", "write height and width as positive integers"
        return Problem(path, image["id"], None, reason, remedy)
    name = image.get("file_name", "-")
    if not isinstance(name, str) or not name or "\0" in name:
        reason, remedy = f"file_name is {name!r}", "write the name of its file"
        return Problem(path, image["id"], None, reason, remedy)
    return None


def _covered(annotations: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """Return the pixels that each mask covers, None where the mask is not a run-length text."""
    covered: list[int | None] = [None] * len(annotations)
    texts = {}
    for number, annotation in enumerate(annotations):
        mask = annotation.get("segmentation")
        if isinstance(mask, dict) and isinstance(mask.get("counts"), str):
            texts[number] = mask["counts"]
    for number, pixels in zip(texts, covered_pixels(texts.values()).tolist(), strict=True):
        covered[number] = pixels
    return covered


def _mask_reason(
    annotation: Mapping[str, Any],
    images: Mapping[int, Mapping[str, Any]],
    covered: int | None,
    needed: bool,
) -> str:
    """Return the fault of a mask, or nothing; masks of unknown images are not checked."""
    mask, image_id = annotation.get("segmentation"), annotation["image_id"]
    if not is_known(image_id, images) or (not needed and mask in (None, [])):  # A53
        return ""
    size = images[image_id]["height"], images[image_id]["width"]
    if isinstance(mask, list):
        return polygon_reason(mask, *size)
    return rle_reason(mask, *size, covered)


def _annotation_problems(
    path: Path,
    annotation: Mapping[str, Any],
    images: Mapping[int, Mapping[str, Any]],
    categories: Collection[int],
) -> Iterator[Problem]:
    image_id, number = annotation["image_id"], annotation["id"]
    if not is_known(image_id, images):
        remedy = "add the image or remove the annotation"
        yield Problem(path, image_id, number, "no such image", remedy)
        return
    if not is_known(annotation["category_id"], categories):
        reason = f"category {annotation['category_id']} is not declared"
        remedy = f"declare it; known are {sorted(categories)[:10]}"
        yield Problem(path, image_id, number, reason, remedy)
    size = images[image_id]["height"], images[image_id]["width"]
    if "bbox" in annotation and (reason := box_reason(annotation["bbox"], *size)):
        remedy = "write [x, y, width, height] in pixels or remove the annotation"
        yield Problem(path, image_id, number, reason, remedy)
    area = annotation.get("area", 0)
    if not is_number(area) or area < 0:
        remedy = "write square pixels or leave it out"
        yield Problem(path, image_id, number, f"area is {area!r}", remedy)
    if annotation.get("iscrowd", 0) not in (0, 1):
        reason, remedy = f"iscrowd is {annotation['iscrowd']!r}", "write 0 or 1"
        yield Problem(path, image_id, number, reason, remedy)
