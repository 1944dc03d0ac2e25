"""What can be wrong with a COCO file, found before training and told with file, id and remedy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.pictures import header_size
from structures.rle import from_bytes

_IMAGE_KEYS = ("id", "file_name", "height", "width")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "segmentation")
_SHOWN = 20


class Problem(NamedTuple):
    """One thing that is wrong: where, what, and what to do about it."""

    file: Path
    image_id: int | None
    annotation_id: int | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        where = [str(self.file)]
        if self.image_id is not None:
            where.append(f"picture {self.image_id}")
        if self.annotation_id is not None:
            where.append(f"annotation {self.annotation_id}")
        return f"{', '.join(where)}: {self.reason}; {self.remedy}"


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one error that lists up to 20 problems.

    Raises:
        ValueError: there is a problem.
    """
    if problems:
        lines = [str(problem) for problem in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"... and {len(problems) - _SHOWN} more")
        raise ValueError("\n".join(lines))


def load_coco(path: Path) -> dict[str, Any]:
    """Parse a COCO instances file and check that its three lists are there.

    Raises:
        ValueError: the file is missing, is no JSON or lacks a list.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"annotation file {path} is missing; check the path") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{path} is not valid JSON ({error}); export it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise ValueError(
                f"{path} has no list '{key}'; a COCO instances file holds images, annotations "
                "and categories"
            )
    return data


def find_problems(
    path: Path, data: Mapping[str, Any], images: Path | None, read_headers: bool = False
) -> list[Problem]:
    """Check a parsed COCO file.

    Args:
        path: of the file, for the messages.
        data: what ``load_coco`` returned.
        images: folder of the pictures, checked for the files that are named; None to skip.
        read_headers: also open every picture file and compare its size.

    Returns:
        All problems, in the order of the file.
    """
    categories, problems = _check_ids(path, data["categories"], ("id", "name"), "category")
    names = [str(c.get("name")) for c in data["categories"] if isinstance(c, dict)]
    for name in sorted({n for n in names if names.count(n) > 1}):
        problems.append(
            Problem(path, None, None, f"category name {name!r} occurs twice", "rename one")
        )
    pictures, found = _check_ids(path, data["images"], _IMAGE_KEYS, "picture")
    problems += found
    faulty = {}  # annotations of these cannot be judged
    for image_id, image in pictures.items():
        if found := list(_check_picture(path, image_id, image, images, read_headers)):
            problems += found
            faulty[image_id] = image
    annotations, found = _check_ids(path, data["annotations"], _ANNOTATION_KEYS, "annotation")
    problems += found
    for annotation_id, annotation in annotations.items():
        if not _known(annotation["image_id"], faulty):
            problems += _check_annotation(path, annotation_id, annotation, pictures, categories)
    return problems


def _check_ids(
    path: Path, records: Sequence[Any], keys: Sequence[str], kind: str
) -> tuple[dict[int, dict[str, Any]], list[Problem]]:
    """Return the complete records by id, and what is wrong with the others."""
    good: dict[int, dict[str, Any]] = {}
    problems = []
    for number, record in enumerate(records):
        reason = ""
        missing = [k for k in keys if k not in record] if isinstance(record, dict) else keys
        if missing:
            known = record.get("id", "?") if isinstance(record, dict) else "?"
            reason = f"{kind} number {number} (id {known}) lacks {', '.join(missing)}"
            remedy = "add the key or remove the record"
        elif not isinstance(record["id"], int) or isinstance(record["id"], bool):
            reason = f"{kind} number {number} has the id {record['id']!r}, which is no integer"
            remedy = "number it"
        elif record["id"] in good:
            reason, remedy = f"{kind} id {record['id']} occurs twice", "renumber one of them"
        if not reason:
            good[record["id"]] = record
            continue
        ids = record if isinstance(record, dict) else {}
        image_id = ids.get("id") if kind == "picture" else ids.get("image_id")
        annotation_id = ids.get("id") if kind == "annotation" else None
        problems.append(Problem(path, image_id, annotation_id, reason, remedy))
    return good, problems


def _check_picture(
    path: Path,
    image_id: int,
    image: Mapping[str, Any],
    folder: Path | None,
    read_headers: bool,
) -> Iterator[Problem]:
    size = (image["height"], image["width"])
    if not all(isinstance(side, int) and side > 0 for side in size):
        yield Problem(path, image_id, None, f"has size {size}", "write positive whole numbers")
        return
    if folder is None:
        return
    file = folder / str(image["file_name"])
    if not read_headers:
        if not file.is_file():
            yield Problem(path, image_id, None, f"picture file {file} is missing", "add the file")
        return
    try:
        stored, shown = header_size(file)
    except ValueError as error:
        yield Problem(path, image_id, None, str(error), "add the file or remove the picture")
        return
    if stored != size:
        yield Problem(path, image_id, None, *size_mismatch(file, size, stored, shown))


def size_mismatch(
    file: Path, stated: tuple[int, int], stored: tuple[int, int], shown: tuple[int, int]
) -> tuple[str, str]:
    """Word the reason and the remedy for a picture of another (height, width) than stated."""
    reason = (
        f"{file} is {stored[0]} px high and {stored[1]} px wide, stated are {stated[0]} and "
        f"{stated[1]}"
    )
    if stated == shown:
        return reason, "its EXIF orientation turns it: save it upright and without that tag"
    return reason, "annotate the picture anew or correct height and width"


def _check_annotation(
    path: Path,
    annotation_id: int,
    annotation: Mapping[str, Any],
    pictures: Mapping[int, Mapping[str, Any]],
    categories: Mapping[int, Any],
) -> Iterator[Problem]:
    image_id = annotation["image_id"]
    if not _known(image_id, pictures):
        yield Problem(
            path, image_id, annotation_id, "no such picture", "add it or remove the annotation"
        )
        return
    if not _known(annotation["category_id"], categories):
        yield Problem(
            path,
            image_id,
            annotation_id,
            f"category {annotation['category_id']} is not declared",
            f"declare it; known are {sorted(categories)[:10]}",
        )
    image = pictures[image_id]
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        reason = _polygon_reason(segmentation)
    else:
        reason = _rle_reason(segmentation, image["height"], image["width"])
    if reason:
        yield Problem(path, image_id, annotation_id, reason, "redraw or remove the annotation")
    box = annotation.get("bbox", [0, 0, 0, 0])
    if not (isinstance(box, list) and len(box) == 4 and _finite(box)):
        remedy = "write [x, y, width, height] or leave it out"
        yield Problem(path, image_id, annotation_id, f"bbox is {box}", remedy)
    if not _finite([annotation.get("area", 0)]):
        remedy = "write square pixels or leave it out"
        yield Problem(path, image_id, annotation_id, f"area is {annotation['area']}", remedy)


def _known(number: Any, table: Mapping[int, Any]) -> bool:
    return isinstance(number, int | float) and number in table


def _finite(values: Sequence[Any]) -> bool:
    try:
        return math.isfinite(sum(values))
    except TypeError:
        return False


def _polygon_reason(polygons: Sequence[Any]) -> str:
    if not polygons:
        return "has no polygon"
    for polygon in polygons:
        if not isinstance(polygon, list):
            return f"a polygon is a {type(polygon).__name__}, no list of numbers"
        if len(polygon) < 6:
            return f"a polygon has {len(polygon)} numbers, fewer than 6"
        if len(polygon) % 2:
            return f"a polygon has {len(polygon)} numbers, which are not pairs"
        if not _finite(polygon):
            return "a polygon has a coordinate that is no finite number"
    return ""


def _rle_reason(segmentation: Any, height: int, width: int) -> str:
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        return "segmentation is neither polygons nor a run-length record with size and counts"
    if segmentation["size"] != [height, width]:
        return f"run-length mask of size {segmentation['size']} in a picture of [{height}, {width}]"
    counts = segmentation["counts"]
    if isinstance(counts, list):
        good = all(isinstance(run, int) and run >= 0 for run in counts)
        covered = sum(counts) if good else -1
    elif isinstance(counts, str):
        try:
            covered = int(from_bytes(counts).sum())
        except ValueError as error:
            return str(error)
    else:
        return f"run lengths are a {type(counts).__name__}, not a text or a list"
    if covered != height * width:
        return f"run lengths cover {covered} of {height * width} pixels"
    return ""
