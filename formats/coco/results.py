"""Reading, checking and writing the JSON files that scores are computed from.

Ground truth is a COCO instances file; results are the COCO results list: one row per detection,
with ``image_id``, ``category_id``, ``score`` and ``bbox`` (x, y, width, height) or ``segmentation``
(RLE) or both. A file that cannot be scored raises an error with its name, the location and the
remedy, because the COCO tools ignore most mistakes and return a lower score instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.coco.document import check_coco, emptied_problems, load_coco, read_json
from formats.coco.result_checks import (
    Row,
    box_reason,
    find_result_problems,
    image_sizes,
    is_number,
)
from formats.files import write_json
from structures import AnnotationPolicy, DataProblems, Problem, settle

__all__ = [
    "ANNOTATION_KEYS",
    "IMAGE_KEYS",
    "GroundTruth",
    "Row",
    "check_ground_truth",
    "check_results",
    "image_sizes",
    "load_ground_truth",
    "load_results",
    "merge_categories",
    "read_ground_truth",
    "read_results",
    "write_results",
]

_log = logging.getLogger(__name__)
GroundTruth = Mapping[str, Any]
IMAGE_KEYS = ("id", "height", "width")  # what scoring needs
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area")


def load_ground_truth(path: str | Path) -> dict[str, Any]:
    """Read a COCO instances file and check everything that scoring relies on.

    Returns:
        The file's content.

    Raises:
        DataProblems: see ``read_ground_truth``.
    """
    return read_ground_truth(path)[0]


def read_ground_truth(
    path: str | Path,
    policy: AnnotationPolicy = "error",
    look: Callable[[Sequence[Any]], Mapping[int, Problem]] | None = None,
    *,
    image_keys: Sequence[str] = IMAGE_KEYS,
    annotation_keys: Sequence[str] = ANNOTATION_KEYS,
    categories: Collection[int] | None = None,
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """Read a COCO instances file with the same checks as in training.

    ``bbox`` and ``area`` are required; ``segmentation`` may be missing or empty if only boxes are
    scored.

    Args:
        path: JSON file.
        policy: ``skip`` leaves out faulty images and annotations; ``repair`` first mends what it
            can.
        look: function from the records of the images to the problems of their files by position.
        image_keys: keys that the record of an image must have.
        annotation_keys: keys that an annotation must have.
        categories: annotations of other category ids are left out unseen; None for all.

    Returns:
        The file's content and the problems of the records that were left out or repaired.

    Raises:
        DataProblems: a record is wrong and the policy is ``error``; or the file is missing, is not
            a COCO file, its categories are wrong, or no object is left.
    """
    path = Path(path)
    content = load_coco(path)
    if categories is not None:
        content["annotations"] = _without_others(content, categories)
    unusable = None if look is None else look(content["images"])
    mend = policy == "repair"
    findings = check_coco(path, content, image_keys, annotation_keys, unusable, mend=mend)
    problems = list(findings.problems)
    if problems and policy != "error" and not findings.fatal:
        problems += emptied_problems(path, content, findings.data)
    fatal = findings.fatal or len(problems) > len(findings.problems)
    skipped = settle(problems, "error" if fatal else policy)
    for note in findings.notes:
        _log.warning(note)
    return ({**content, **findings.data} if skipped or findings.notes else content), skipped


def _without_others(content: Mapping[str, Any], categories: Collection[int]) -> list[Any]:
    """Return the annotations except those of further categories of the file."""
    ids = (c.get("id") for c in content["categories"] if isinstance(c, dict))
    others = {i for i in ids if isinstance(i, int)} - set(categories)

    def is_other(annotation: Any) -> bool:
        number = annotation.get("category_id") if isinstance(annotation, dict) else None
        return isinstance(number, int) and number in others

    return [a for a in content["annotations"] if not is_other(a)]


def load_results(path: str | Path, ground_truth: GroundTruth | None = None) -> list[Row]:
    """Read a COCO results file and check every row, including that each mask can be decoded.

    Args:
        path: JSON file with a list of rows.
        ground_truth: the data set that the rows must refer to, or None to check only the rows.

    Raises:
        DataProblems: see ``read_results``.
    """
    return read_results(path, ground_truth)[0]


def read_results(
    path: str | Path, ground_truth: GroundTruth | None = None, policy: AnnotationPolicy = "error"
) -> tuple[list[Row], tuple[Problem, ...]]:
    """Read a COCO results file and check every row, including that each mask can be decoded.

    Args:
        path: JSON file with a list of rows.
        ground_truth: the data set that the rows must refer to, or None to check only the rows;
            without ``categories``, any category is accepted.
        policy: ``skip`` and ``repair`` leave out faulty rows.

    Returns:
        The rows, and the problems of the rows that were left out.

    Raises:
        DataProblems: rows are wrong (all are listed) and the policy is ``error``; or the file is
            missing, not JSON, or not a list.
    """
    path = Path(path)
    rows = read_json(path, "a COCO results list")
    if not isinstance(rows, list):
        reason = f"results must be a list of rows, got {type(rows).__name__}"
        if isinstance(rows, dict) and "annotations" in rows:
            reason = "this is an annotations file, not a list of results"
        remedy = (
            'write [{"image_id": ..., "category_id": ..., "score": ..., "segmentation": ...}, ...]'
        )
        raise DataProblems([Problem(path, None, None, reason, remedy)])
    skipped = settle(find_result_problems(rows, ground_truth, path, decode=True), policy)
    faulty = {problem.annotation for problem in skipped}
    kept = [row for number, row in enumerate(rows) if number not in faulty] if faulty else rows
    return kept, skipped


def write_results(path: Path, rows: Sequence[Row]) -> None:
    """Write a COCO results list with numbers in full precision."""
    write_json(path, rows)


def check_ground_truth(content: Any, source: str = "ground truth") -> None:
    """Check ground truth for everything that scoring relies on.

    Args:
        content: content of a COCO instances file.
        source: name of the ground truth in messages.

    Raises:
        ValueError: a list or a key is missing, an id occurs twice or is unknown, a size, a box or
            an area is not a number, or an RLE has another size than its image.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{source}: must be an object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"{source}: has no list {key!r}; give a COCO instances file")
    _require(content["images"], IMAGE_KEYS, f"{source}: images")
    _require(content["categories"], ("id", "name"), f"{source}: categories")
    _require(content["annotations"], ANNOTATION_KEYS, f"{source}: annotations")
    for key in ("images", "annotations", "categories"):
        _check_unique([record["id"] for record in content[key]], f"{source}: {key}")
    for image in content["images"]:
        if not all(is_number(image[side]) and image[side] >= 1 for side in ("height", "width")):
            raise ValueError(
                f"{source}: image {image['id']} has height {image['height']!r} and width "
                f"{image['width']!r}; write its size in pixels"
            )
    sizes = image_sizes(content)
    categories = {record["id"] for record in content["categories"]}
    for annotation in content["annotations"]:
        where = f"{source}: annotation {annotation['id']}"
        _check_reference(annotation, sizes, categories, where)
        _check_box(annotation, where)
        if isinstance(annotation.get("segmentation"), Mapping):
            _check_size(annotation["segmentation"], sizes[annotation["image_id"]], where)


def check_results(
    rows: Sequence[Mapping[str, Any]],
    ground_truth: GroundTruth | None = None,
    source: str = "results",
) -> None:
    """Check results for everything that scoring relies on.

    Args:
        rows: a COCO results list.
        ground_truth: the data set that the rows must refer to, or None to check only the rows.
        source: name of the rows in messages.

    Raises:
        DataProblems: a key is missing, a score or a box is not finite, an image or category id is
            unknown, a segmentation is not an RLE or has another size than its image.
    """
    settle(find_result_problems(rows, ground_truth, Path(source)), "error")


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
            raise ValueError(f"{where}: id {identifier} occurs twice; renumber them")
        seen.add(identifier)


def _check_reference(
    record: Mapping[str, Any], images: Mapping[Any, Any], categories: set[Any], where: str
) -> None:
    if record["image_id"] not in images:
        raise ValueError(
            f"{where}: image_id {record['image_id']!r} is not among the {len(images)} images of "
            "the annotations; the two files must belong together"
        )
    if record["category_id"] not in categories:
        shown = sorted(categories, key=str) if len(categories) <= 12 else f"{len(categories)} ids"
        raise ValueError(
            f"{where}: category_id {record['category_id']!r} is not among the categories of the "
            f"annotations ({shown}); write the category ids of the data set, not labels from 0"
        )


def _check_box(annotation: Mapping[str, Any], where: str) -> None:
    if reason := box_reason(annotation["bbox"]):
        raise ValueError(f"{where}: {reason}; write [x, y, width, height] in pixels")
    if not is_number(annotation["area"]):
        raise ValueError(f"{where}: area is {annotation['area']!r}; write a finite number")


def _check_size(mask: Any, size: tuple[int, int] | None, where: str) -> None:
    if not isinstance(mask, Mapping) or "size" not in mask or "counts" not in mask:
        raise ValueError(
            f'{where}: segmentation must be an RLE, {{"size": [height, width], "counts": ...}}'
        )
    if size is not None and tuple(mask["size"]) != size:
        raise ValueError(
            f"{where}: RLE of size {list(mask['size'])} in an image of size {list(size)} (height, "
            "width); write masks in the size of the original image"
        )


def merge_categories(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth and results with all categories merged into ``object`` with id 1."""
    truth = {
        **ground_truth,
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [{**a, "category_id": 1} for a in ground_truth["annotations"]],
    }
    return truth, [{**row, "category_id": 1} for row in results]
