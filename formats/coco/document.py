"""Checks of COCO instances files, the same for training and for evaluation.

The checks read only the JSON file; image files are checked by `formats.coco.image_checks`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from formats.coco.annotation_checks import COMPUTED, AnnotationCheck
from formats.coco.categories import case_problems, left_out_note, name_problems, used_counts
from formats.coco.export_checks import export_problem, label_problem
from formats.coco.image_labels import KEYS
from formats.coco.run_lengths import covered_pixels
from formats.coco.shapes import is_known
from structures import DataProblems, ImageId, Problem

LISTS = ("images", "annotations", "categories")
_LARGEST_ID = 2**63


class CocoFindings(NamedTuple):
    """The result of a check.

    Attributes:
        problems: all problems: categories, then images, then annotations in the order of the file;
            those of repaired annotations are marked.
        fatal: True if a problem affects the whole file, so that leaving out records cannot help.
        data: the three lists without the records that have a problem, and without the annotations
            of images that have a problem; repaired annotations are included.
        notes: what is left out although it is no fault.
    """

    problems: list[Problem]
    fatal: bool
    data: dict[str, list[dict[str, Any]]]
    notes: tuple[str, ...] = ()


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
    whole = "a COCO instances file is an object with images, annotations and categories"
    if isinstance(data, list) and data:
        reason = "has no list 'images': it is itself a list, as predictions are"
        remedy = f"{whole}; were annotations and predictions exchanged?"
        raise DataProblems([Problem(path, None, None, reason, remedy)])
    lacking = [k for k in LISTS if not isinstance(data, dict) or not isinstance(data.get(k), list)]
    if lacking:
        raise DataProblems(
            [Problem(path, None, None, f"has no list {key!r}", whole) for key in lacking]
        )
    content: dict[str, Any] = data
    return content


def load_categories(path: Path) -> list[dict[str, Any]]:
    """Parse a COCO instances file for its categories and check these.

    Raises:
        DataProblems: see ``load_coco``, or a category is wrong.
    """
    data, problems = load_coco(path), list[Problem]()
    _categories(path, data, problems)
    if problems:
        raise DataProblems(problems)
    categories: list[dict[str, Any]] = data["categories"]
    return categories


def emptied_problems(
    path: Path, data: Mapping[str, Sequence[Any]], left: Mapping[str, Sequence[Any]]
) -> list[Problem]:
    """Return a problem if nothing that can be scored is left of a file.

    Args:
        path: path of the file, for the message.
        data: its content.
        left: its content without faulty records.
    """
    if not left["images"]:
        return [Problem(path, None, None, "no image is left", "fix some of them")]
    if _has_objects(data) and not _has_objects(left):
        return [Problem(path, None, None, "no object is left", "fix some of the annotations")]
    return []


def _has_objects(data: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether an annotation is that of an object and not of a crowd."""
    return any(isinstance(a, dict) and not a.get("iscrowd") for a in data["annotations"])


def check_coco(
    path: Path,
    data: Mapping[str, Sequence[Any]],
    image_keys: Sequence[str] = ("id", "height", "width"),
    annotation_keys: Sequence[str] = ("id", "image_id", "category_id", "segmentation"),
    unusable: Mapping[int, Problem] | None = None,
    *,
    mend: bool = False,
) -> CocoFindings:
    """Check the records of a parsed file.

    Annotations whose box and mask both have no area are left out with a note.  # A311

    Args:
        path: path of the file, for the messages.
        data: the output of ``load_coco``.
        image_keys: keys that the record of an image must have.
        annotation_keys: keys that an annotation must have. ``segmentation``, ``bbox`` and ``area``
            are checked wherever they exist; an empty list of polygons is accepted unless
            ``segmentation`` is required.
        unusable: problems of image files, by position in ``data["images"]``.
        mend: keep annotations that ``formats.coco.repair`` can mend.
    """
    problems: list[Problem] = []
    categories, notes = _categories(path, data, problems)
    if not data["images"]:
        problems.append(Problem(path, None, None, "lists no image", "list the images"))
    wrong = label_problem(path, data)
    if wrong is None and "segmentation" in annotation_keys:
        wrong = export_problem(path, data)
    if wrong is not None:
        problems.append(wrong)
        data = {**data, "annotations": []}
    fatal = bool(problems)
    problems += case_problems(path, categories, used_counts(data["annotations"]))
    images, faulty = _images(path, data["images"], image_keys, unusable or {}, problems)

    given = [key for key in annotation_keys if key not in COMPUTED]
    complete = _complete(path, data["annotations"], given, "annotation", problems)
    judged = [(n, a) for n, a in complete if not is_known(a["image_id"], faulty)]
    check = AnnotationCheck(path, images, {c["id"] for c in categories}, annotation_keys)
    annotations, empty = _annotations(check, judged, problems, mend)
    if empty:
        notes.append(
            f"{path}: {len(empty)} annotation(s) whose box and mask have no area are left out: "
            f"{', '.join(map(str, empty[:10]))}{', ...' if len(empty) > 10 else ''}"
        )
    kept = {"images": list(images.values()), "annotations": annotations, "categories": categories}
    return CocoFindings(problems, fatal, kept, tuple(notes))


def _annotations(
    check: AnnotationCheck,
    judged: Sequence[tuple[int, dict[str, Any]]],
    problems: list[Problem],
    mend: bool,
) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the annotations to keep and the ids of empty ones; append the problems of all."""
    annotations: list[dict[str, Any]] = []
    empty: list[int] = []
    for (number, annotation), covered in zip(judged, _covered(judged), strict=True):
        found = list(check.problems(number, annotation, covered))
        mended = check.mended(number, annotation) if found else None
        if not found:
            annotations.append(annotation)
        elif len(found) == 1 and check.is_empty(annotation):
            empty.append(annotation["id"])
        elif mended is None:
            problems += found
        elif mend:
            annotations.append(mended.annotation)
            problems += [fault.mended(mended.done) for fault in found]
        else:
            problems += [fault.mendable() for fault in found]
    return annotations, empty


def _categories(
    path: Path, data: Mapping[str, Sequence[Any]], problems: list[Problem]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the categories to keep and notes, and append the problems of all categories."""
    records = data["categories"]
    complete = [c for _, c in _complete(path, records, ("id", "name"), "category", problems)]
    found, spare = name_problems(path, complete, used_counts(data["annotations"]))
    problems += found
    kept = [category for category in complete if category not in spare]
    if not records or (spare and not kept):
        problems.append(Problem(path, None, None, "declares no category", "declare the classes"))
    return kept, [left_out_note(path, spare)] if spare else []


def _images(
    path: Path,
    records: Sequence[Any],
    keys: Sequence[str],
    unusable: Mapping[int, Problem],
    problems: list[Problem],
) -> tuple[dict[ImageId, dict[str, Any]], set[ImageId]]:
    """Return the valid images by id, and the ids of faulty ones, whose objects are not checked.

    The first of two images with the same id is kept.
    """
    sound: dict[ImageId, dict[str, Any]] = {}
    for position, image in _complete(path, records, keys, "image", problems):
        fault = _image_problem(path, image) or unusable.get(position)
        if fault is None:
            sound[image["id"]] = image
        else:
            problems.append(fault)
    listed = {r["id"] for r in records if isinstance(r, dict) and type(r.get("id")) in (int, str)}
    return sound, listed - sound.keys()


def _complete(
    path: Path, records: Sequence[Any], keys: Sequence[str], kind: str, problems: list[Problem]
) -> list[tuple[int, dict[str, Any]]]:
    """Return the complete records with their positions; append the problems of the others."""
    good: list[tuple[int, dict[str, Any]]] = []
    seen: set[ImageId] = set()
    texts = kind == "image" and all(  # A316
        isinstance(record, dict) and isinstance(record.get("id"), str) for record in records
    )
    for number, record in enumerate(records):
        fault = _record_fault(record, keys, (kind, number), seen, texts=texts)
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
    record: Any,
    keys: Sequence[str],
    place: tuple[str, int],
    seen: Collection[ImageId],
    *,
    texts: bool,
) -> tuple[str, str] | None:
    """Return reason and remedy, or None if the record is complete and its id is new.

    Args:
        record: the record.
        keys: keys that it must have.
        place: kind of the record and its number in the file.
        seen: ids of the records before.
        texts: whether ids are texts instead of integers.
    """
    name = f"{place[0]} number {place[1]}"
    if not isinstance(record, dict):
        reason = f"{name} is {type(record).__name__}, not an object"
        return reason, f"write an object with {', '.join(keys)} or remove it"
    missing = [key for key in keys if key not in record]
    if missing:
        reason = f"{name} (id {record.get('id', '?')}) lacks {', '.join(missing)}"
        return reason, "add the key or remove the record"
    number = record["id"]
    if texts:
        if not number:
            return f"{name} has an empty id", "write an id"
    elif type(number) is not int or abs(number) >= _LARGEST_ID:
        return f"{name} has the id {number!r}, which is not an integer", "write an integer id"
    if number in seen:
        return f"{place[0]} id {number} occurs twice", "renumber one of them"
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
    for key in KEYS:
        ids = image.get(key)
        if ids is not None and not (isinstance(ids, list) and all(type(i) is int for i in ids)):
            reason, remedy = f"{key} is {ids!r}", "write a list of category ids, or remove it"
            return Problem(path, image["id"], None, reason, remedy)
    return None


def _covered(annotations: Sequence[tuple[int, Mapping[str, Any]]]) -> list[int | None]:
    """Return the pixels that each mask covers, None where the mask is not a run-length text."""
    covered: list[int | None] = [None] * len(annotations)
    texts = {}
    for position, (_, annotation) in enumerate(annotations):
        mask = annotation.get("segmentation")
        if isinstance(mask, dict) and isinstance(mask.get("counts"), str):
            texts[position] = mask["counts"]
    for position, pixels in zip(texts, covered_pixels(texts.values()).tolist(), strict=True):
        covered[position] = pixels
    return covered
