"""Checks of a COCO data set: its annotation file together with its image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from formats.coco.categories import left_out_note, unused_root, used_counts
from formats.coco.document import CocoFindings, check_coco
from formats.coco.missing_images import ADD_FILE, Elsewhere
from formats.images import Depth, ImageHeader, ImageOptions, read_header, read_rgb
from structures import Problem

_IMAGE_KEYS = ("id", "file_name", "height", "width")
_THREADS = 2  # decoding releases the interpreter lock; more threads only compete for the disk


def examine_coco(
    path: Path,
    data: Mapping[str, Any],
    images: Path | None,
    depth: Depth = "name",
    options: ImageOptions | None = None,
    *,
    mend: bool = False,
) -> CocoFindings:
    """Check a parsed COCO file and the images it refers to.

    A category 0 that only groups the others is left out with a note, see
    ``formats.coco.categories.unused_root``.

    Args:
        path: path of the file, for the messages.
        data: the output of ``formats.coco.document.load_coco``.
        images: folder of the images; None to check only the annotation file.
        depth: how far each image file is read: ``name`` (it exists), ``header`` (its size equals
            the annotated size) or ``pixels`` (it can also be decoded).
        options: how image files are read; None for the defaults.
        mend: keep annotations that ``formats.coco.repair`` can mend.
    """
    missing = images is not None and not images.is_dir()
    unusable = None
    if images is not None and not missing:
        unusable = unusable_images(path, data["images"], images, depth, options)
    findings = check_coco(path, data, image_keys=_IMAGE_KEYS, unusable=unusable, mend=mend)
    if missing:
        reason, remedy = f"its image folder {images} is missing", "check the path"
        problem = Problem(path, None, None, reason, remedy)
        findings = findings._replace(problems=[problem, *findings.problems], fatal=True)
    categories = findings.data["categories"]
    root = unused_root(categories, used_counts(data["annotations"]))
    if root is None:
        return findings
    kept = findings.data | {"categories": [c for c in categories if c is not root]}
    return findings._replace(data=kept, notes=(*findings.notes, left_out_note(path, [root])))


def category_problems(
    file: Path, categories: Sequence[Mapping[str, Any]], names: Mapping[int, str], source: str
) -> list[Problem]:
    """Compare the categories of a file, which may lack some, with the declared categories.

    Args:
        file: the file to compare.
        categories: its complete records.
        names: declared id -> name.
        source: where the categories are declared, for the message.

    Returns:
        One problem for each category whose id is not declared or has another name.
    """
    return [
        Problem(
            file,
            None,
            None,
            f"category id {c['id']} is {str(c['name'])!r} here and "
            f"{names.get(c['id'], 'absent')!r} in {source}",
            "write the same ids and names in all files of a data set",
        )
        for c in categories
        if names.get(c["id"]) != str(c["name"])
    ]


def unusable_images(
    path: Path,
    records: Sequence[Any],
    folder: Path,
    depth: Depth,
    options: ImageOptions | None = None,
) -> dict[int, Problem]:
    """Return the problems of image files, by position of the record.

    Args:
        path: the annotation file, for the messages.
        records: its list of images, valid or not.
        folder: folder of the image files.
        depth: see ``examine_coco``.
        options: see ``examine_coco``.
    """
    named = [
        (position, record)
        for position, record in enumerate(records)
        if isinstance(record, dict)
        and isinstance(record.get("file_name"), str)
        and "\0" not in record["file_name"]
    ]

    def look(item: tuple[int, dict[str, Any]]) -> tuple[str, str] | None:
        stated = (item[1].get("height"), item[1].get("width"))
        return image_fault(folder / item[1]["file_name"], stated, depth, options or ImageOptions())

    if depth == "name":  # too fast to be worth a thread
        faults = [look(item) for item in named]
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            faults = list(pool.map(look, named))
    elsewhere = Elsewhere(folder)
    found = {}
    for (position, record), fault in zip(named, faults, strict=True):
        if fault is not None:
            missing = fault[1] == ADD_FILE
            remedy = elsewhere.remedy(record["file_name"]) if missing else fault[1]
            found[position] = Problem(path, record.get("id"), None, fault[0], remedy)
    return found


def image_fault(
    file: Path, stated: tuple[Any, Any], depth: Depth, options: ImageOptions
) -> tuple[str, str] | None:
    """Return reason and remedy of an unusable image file, or None.

    Args:
        file: the image.
        stated: its (height, width) according to the annotations.
        depth: see ``examine_coco``.
        options: how the file is read.
    """
    try:
        exists = file.is_file()
    except OSError as error:  # for example a name that is too long
        return f"image file {str(file)[:200]}: {error.strerror}", "rename or remove the image"
    if not exists:
        return f"image file {file} is missing", ADD_FILE
    if depth == "name":
        return None
    try:
        header = read_header(file, options)
        size = header.size(options.exif, stated)
        if size == stated and depth == "pixels":
            read_rgb(file, options, size)
    except ValueError as error:
        reason, _, remedy = str(error).rpartition("; ")
        return reason, f"{remedy} or remove the image"
    return None if size == stated else size_mismatch(header, stated, size)


def size_mismatch(
    header: ImageHeader, stated: tuple[Any, Any], size: tuple[int, int]
) -> tuple[str, str]:
    """Return reason and remedy for an image whose size differs from the annotations.

    Args:
        header: the header of its file.
        stated: its (height, width) according to the annotations.
        size: its (height, width) as it is read.
    """
    turned = " as its EXIF orientation shows it" if size != header.stored else ""
    reason = (
        f"{header.path} is {size[0]} px high and {size[1]} px wide{turned}, but the annotations "
        f"say {stated[0]} and {stated[1]}"
    )
    for exif, other in (("ignore", header.stored), ("apply", header.shown)):
        if stated == other:
            return reason, f"the other orientation fits: set exif: {exif} or leave exif out"
    if stated == size[::-1]:
        return reason, "height and width are exchanged: write them the other way round"
    return reason, "annotate the image again or correct height and width"
