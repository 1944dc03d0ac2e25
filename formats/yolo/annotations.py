"""Reading and checking a YOLO split as a COCO dictionary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from formats.images import SUFFIXES, Depth, ImageOptions, read_header, read_rgb
from formats.yolo.data_yaml import YoloSet
from formats.yolo.labels import UNDECLARED, LabelFault, label_path, read_labels
from structures import DataProblems, Problem

_OPEN_FILES = 8  # threads that read headers; network file systems have a high latency
_NOT_LABELS = ("classes.txt",)  # labelling tools write the class names next to the labels


class YoloFindings(NamedTuple):
    """A split as a COCO dictionary, with its problems.

    Attributes:
        folder: folder of the images.
        data: ``images``, ``annotations`` and ``categories``, without records that have a problem
            and without the annotations of images that have a problem.
        problems: all problems of the split.
        counts: numbers of images (``pictures``), of images without a label file (``unlabelled``)
            and of images left out (``left_out_pictures``); numbers of ``annotations`` and of
            ``left_out_annotations`` in the images that were kept, and of ``repaired_annotations``
            if they may be repaired.
    """

    folder: Path
    data: dict[str, Any]
    problems: list[Problem]
    counts: dict[str, int]


def read_split(
    dataset: YoloSet,
    split: str,
    boxes_as_masks: bool = False,
    depth: Depth = "header",
    limit: float = math.inf,
    options: ImageOptions | None = None,
    *,
    mend: bool = False,
) -> YoloFindings:
    """Read the annotations of a split; fractions become pixels by the size in each image's header.

    Images have ids from 1 by sorted name, faulty images included, and annotations have ids from 1
    by image and line. Boxes enclose the polygons.

    Args:
        dataset: the content of a ``data.yaml``.
        split: ``train``, ``val`` or ``test``.
        boxes_as_masks: see ``read_labels``.
        depth: ``header``, or ``pixels`` to decode every image as well.
        limit: if there are more images, only their headers are read.
        options: how image files are read; by default EXIF orientations are applied (A66).
        mend: clip polygons that reach out of their image instead of leaving them out.

    Returns:
        The split and its problems; without images if the split could not be listed.
    """
    try:
        folder, names, problems = dataset.images(split)
    except DataProblems as error:
        folder, names, problems = dataset.root, [], list(error.problems)
    paths = [folder / name for name in names]
    sizes = _sizes_or_faults(paths, depth if len(names) <= limit else "header", options)
    problems += _stray_labels(paths)
    owners = Counter(label_path(path) for path in paths)
    data: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": dataset.category_map.to_coco(),
    }
    lines: list[Problem] = []
    for image_id, (name, path, size) in enumerate(zip(names, paths, sizes, strict=True), start=1):
        labels = label_path(path)
        if owners[labels] > 1:
            reason = f"shares its label file {labels} with an image of another kind"
            problems.append(Problem(path, name, None, reason, "rename one of them"))
        elif isinstance(size, tuple):
            image = image_id, name, size
            found = _read_image(dataset, data, image, labels, boxes_as_masks, mend)
            problems += found
            lines += found
        else:
            problems.append(Problem(path, name, None, size, "fix it or remove the image"))
    problems = _from_one(problems, data, dataset.names)
    missing = sum(not labels.is_file() for labels in owners)
    if missing == len(owners) > 0:
        problems.append(_no_labels(dataset.file, split, paths))
    counts = {"pictures": len(paths), "unlabelled": missing} | _line_counts(data, lines, mend)
    counts["left_out_pictures"] = len(paths) - len(data["images"])
    return YoloFindings(folder, data, problems, counts)


def _line_counts(data: Mapping[str, Any], lines: Sequence[Problem], mend: bool) -> dict[str, int]:
    repaired = sum(problem.repaired for problem in lines)
    bad = len(lines) - repaired
    counts = {"annotations": len(data["annotations"]) + bad, "left_out_annotations": bad}
    return counts | ({"repaired_annotations": repaired} if mend else {})


def _from_one(
    problems: list[Problem], data: Mapping[str, Any], names: Mapping[int, str]
) -> list[Problem]:
    """Return the problems, with another remedy where the class numbers seem to begin with 1."""
    undeclared = f"class {len(names)} {UNDECLARED}"
    begin = [*names] == [*range(len(names))] and all(a["category_id"] for a in data["annotations"])
    wrong = {problem.reason for problem in problems if problem.reason.endswith(UNDECLARED)}
    if not begin or wrong != {undeclared}:
        return problems
    remedy = (
        f"class numbers begin with 0, and no line has class 0: subtract 1 in every line, so that 0 "
        f"is {names[0]!r}"
    )
    return [p._replace(remedy=remedy) if p.reason in wrong else p for p in problems]


def _no_labels(file: Path, split: str, paths: Sequence[Path]) -> Problem:
    reason = f"none of the {len(paths)} images of {split} has a label file"
    remedy = f"put the label files in the expected place, such as {label_path(paths[0])}"
    if any(path.with_suffix(".txt").is_file() for path in paths):
        remedy = (
            f"they are beside the images: move them to {label_path(paths[0]).parent}, or rename "
            "the folder images, so that labels are looked for beside the images"
        )
    return Problem(file, None, None, reason, remedy)


def _read_image(
    dataset: YoloSet,
    data: dict[str, Any],
    image: tuple[int, str, tuple[int, int]],
    labels: Path,
    boxes_as_masks: bool,
    mend: bool,
) -> list[Problem]:
    """Add an image (id, name, size) and its objects to ``data``; return the problems."""
    image_id, name, size = image
    data["images"].append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
    lines, faults = read_labels(labels, dataset.names, size, boxes_as_masks)
    if mend:
        lines = sorted([*lines, *(fault.mended for fault in faults if fault.mended)])
    number = len(data["annotations"])
    data["annotations"] += [
        {
            "id": number + k,
            "image_id": image_id,
            "category_id": line.category,
            "iscrowd": 0,
            "segmentation": [line.polygon],
            "bbox": line.box(),
        }
        for k, line in enumerate(lines, start=1)
    ]
    return [_line_problem(labels, name, fault, mend) for fault in faults]


def _line_problem(labels: Path, name: str, fault: LabelFault, mend: bool) -> Problem:
    problem = Problem(labels, name, fault.number, fault.reason, fault.remedy, part="line")
    if fault.mended is None:
        return problem
    return problem.mended("clipped") if mend else problem.mendable()


def _sizes_or_faults(
    paths: Sequence[Path], depth: Depth, options: ImageOptions | None
) -> list[tuple[int, int] | str]:
    reading = options or ImageOptions()
    with ThreadPoolExecutor(_OPEN_FILES) as pool:
        return list(pool.map(lambda path: _size_or_fault(path, depth, reading), paths))


def _size_or_fault(path: Path, depth: Depth, options: ImageOptions) -> tuple[int, int] | str:
    """Return (height, width) of an image, or the reason why it cannot be used."""
    try:
        size = read_header(path, options).size(options.exif)
        if depth == "pixels":
            read_rgb(path, options)
    except ValueError as error:
        return str(error)
    return size


def _stray_labels(images: Sequence[Path]) -> Iterator[Problem]:
    """Yield a problem for each label file in ``labels`` folders that belongs to no image."""
    folders = {label_path(path).parent: path.parent for path in images}
    for labels, folder in sorted(folders.items()):
        if labels == folder or not labels.is_dir():  # a folder of images may have any text file
            continue
        stems = {f.stem for f in folder.iterdir() if f.suffix.lower() in SUFFIXES}
        stems |= {path.stem for path in images if path.parent == folder}
        for file in sorted(labels.glob("*.txt")):
            if file.stem not in stems and file.name not in _NOT_LABELS:
                reason = f"there is no image {folder / file.stem} (.jpg, .png, ...)"
                yield Problem(file, None, None, reason, "add the image or remove the file")
