"""Writing COCO instances as YOLO segmentation text.

YOLO text has one closed path per object. Parts and holes are joined by bridges of zero width, which
change no pixel under the even-odd rule of the COCO tools; a mask that no such path gives (run
lengths, overlapping parts, parts beyond the border) is traced along its pixels. In both cases the
text rasterises to exactly the original mask. Crowd regions cannot be expressed in YOLO text.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from formats.coco.document import emptied_problems, load_coco
from formats.coco.image_checks import examine_coco
from formats.coco.store import encode_segmentation
from formats.images import ANY_SIZE, read_header
from formats.yolo.contours import join, trace
from formats.yolo.data_yaml import YoloSet
from formats.yolo.labels import format_line, label_path, parse_labels
from structures import AnnotationPolicy, CategoryMap, DataProblems, Problem, settle
from structures.rle import bounding_box, decode, from_bytes

Placing = Literal["copy", "link"]
_log = logging.getLogger(__name__)
_TURNED = (
    "has an EXIF orientation, which is applied to YOLO text, but to COCO records only if the size "
    "fits nothing else"
)
_UPRIGHT = "save it upright and without that tag"


class Outline(NamedTuple):
    """One closed path of an object.

    Attributes:
        polygon: x1, y1, x2, y2, ... in pixels.
        kind: ``kept`` unchanged, ``joined`` from several parts, or ``traced`` from the mask.
    """

    polygon: list[float]
    kind: str


def outline(segmentation: Any, size: tuple[int, int]) -> Outline | None:
    """Return one closed path whose YOLO line rasterises to the mask of a COCO segmentation.

    Args:
        segmentation: list of polygons, or a run-length record.
        size: (height, width) of the image.

    Returns:
        The path, or None for run lengths without a pixel.
    """
    counts = encode_segmentation(segmentation, *size)
    if isinstance(segmentation, list):
        parts = [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in segmentation]
        polygon = join(parts).reshape(-1).tolist()
        if _written(polygon, size) == counts:
            return Outline(polygon, "kept" if len(parts) == 1 else "joined")
    runs = from_bytes(counts)
    left, top, right, bottom = bounding_box(runs, size)
    if right == left:
        return None
    borders = trace(decode(runs, size)[top:bottom, left:right])
    polygon = (join(borders) + np.array([left, top])).reshape(-1).tolist()
    return Outline(polygon, "traced")


def _written(polygon: list[float], size: tuple[int, int]) -> bytes:
    """Return the mask of a polygon after writing it as text and reading it again."""
    lines, _ = parse_labels(format_line(0, polygon, size), (0,), size)
    return encode_segmentation([lines[0].polygon], *size) if lines else b""


def coco_to_yolo(
    annotations: Path,
    images: Path,
    out: Path,
    *,
    split: str | None = None,
    skip_crowds: bool = False,
    placing: Placing = "copy",
    bad_data: AnnotationPolicy = "error",
) -> dict[str, int]:
    """Write a COCO file as a split of a YOLO data set.

    Writes ``out/images/SPLIT``, ``out/labels/SPLIT`` and ``out/data.yaml``. Further splits go into
    the same folder; classes are numbered by the categories of the first split, sorted by id.

    Args:
        annotations: COCO instances file.
        images: folder of its images.
        out: folder to write.
        split: name of the split; None takes it from ``instances_SPLIT.json``.
        skip_crowds: leave out and count crowd regions instead of raising an error.
        placing: ``copy`` the images, or ``link`` to them.
        bad_data: policy for faulty images and annotations.

    Returns:
        Numbers of images and objects written, by kind of outline, and of those left out.

    Raises:
        ValueError: the file is wrong, has crowds, does not match the classes in ``out``, or ``out``
            already has that split.
    """
    split = split or annotations.stem.removeprefix("instances_")
    data, left_out = _sound(annotations, images, bad_data)
    records, objects = data["images"], data["annotations"]
    crowds = [a["id"] for a in objects if a.get("iscrowd")]
    if crowds and not skip_crowds:
        raise ValueError(
            f"{annotations}: {len(crowds)} annotations are crowds (the first: {crowds[:5]}), which "
            "YOLO text cannot express; leave them out by --skip-crowds"
        )
    names = _class_numbers(out, split, annotations, data["categories"])
    targets = _targets(out, split, annotations, records)
    of_image: dict[int, list[dict[str, Any]]] = {i["id"]: [] for i in records}
    for annotation in sorted(objects, key=lambda a: int(a["id"])):
        if not annotation.get("iscrowd"):
            of_image[annotation["image_id"]].append(annotation)
    numbers = {c["id"]: names.index(str(c["name"])) for c in data["categories"]}
    counts: Counter[str] = Counter({"pictures": len(records), "crowds_left_out": len(crowds)})
    for image in records:
        lines = list(_lines(of_image[image["id"]], image, numbers, counts))
        _place(images / image["file_name"], targets[image["id"]], lines, placing)
        counts["pictures_without_objects"] += not lines
    _declare(out, split, names)
    keys = ("pictures", "pictures_without_objects", "objects", "kept", "joined", "traced")
    left = {k: counts[k] for k in ("crowds_left_out", "without_pixel_left_out")}
    return {k: counts[k] for k in keys} | left | {"problems_left_out": left_out}


def _sound(
    annotations: Path, images: Path, bad_data: AnnotationPolicy
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Return the records of a COCO file that can be written, and the number of problems."""
    content = load_coco(annotations)
    mend = bad_data == "repair"
    findings = examine_coco(annotations, content, images, "header", ANY_SIZE, mend=mend)
    for note in findings.notes:
        _log.warning(note)
    kept, turned = findings.data, list[Problem]()
    if not findings.fatal:
        kept, turned = without_unclear(annotations, kept, images)
    emptied = [] if findings.fatal else emptied_problems(annotations, content, kept)
    problems = [*findings.problems, *turned]
    fatal = findings.fatal or bool(emptied)
    settle([*problems, *emptied], "error" if fatal else bad_data)
    return kept, len(problems)


def without_unclear(
    file: Path, data: dict[str, list[dict[str, Any]]], folder: Path
) -> tuple[dict[str, list[dict[str, Any]]], list[Problem]]:
    """Leave out images that a COCO set and a YOLO set would turn differently (A66).

    Args:
        file: file that is converted, for the messages.
        data: a COCO dictionary with sound records.
        folder: folder of the images.

    Returns:
        The dictionary without these images and their annotations, and a problem for each of them.
    """
    unclear = [i for i in data["images"] if not _is_clear(folder / i["file_name"], i)]
    problems = [
        Problem(file, i["id"], None, f"{i['file_name']} {_TURNED}", _UPRIGHT) for i in unclear
    ]
    lost = {image["id"] for image in unclear}
    kept = {
        "images": [i for i in data["images"] if i["id"] not in lost],
        "annotations": [a for a in data["annotations"] if a["image_id"] not in lost],
    }
    return data | kept, problems


def _is_clear(path: Path, record: Mapping[str, Any]) -> bool:
    """Return whether an image is upright, or its stated size shows that it is to be turned."""
    header = read_header(path, ANY_SIZE)
    stated = (record["height"], record["width"])
    return header.orientation == 1 or stated == header.shown != header.stored


def _class_numbers(
    out: Path, split: str, file: Path, categories: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Return the class names by number, from ``out/data.yaml`` if it exists."""
    own = CategoryMap.from_coco(categories).names
    existing = out / "data.yaml"
    if not existing.exists():
        return list(own)
    dataset = YoloSet.read(existing)
    if split in dataset.entries:
        raise ValueError(f"{existing} already has a {split} split; choose another folder")
    names = list(dataset.names.values())
    if list(dataset.names) != list(range(len(names))) or not set(own) <= set(names):
        raise ValueError(
            f"{file}: categories {sorted(set(own) - set(names))[:10]} are not among the names of "
            f"{existing}; convert the file with all categories first, or choose another folder"
        )
    return names


def _targets(
    out: Path, split: str, file: Path, records: Iterable[Mapping[str, Any]]
) -> dict[int, Path]:
    """Return the target path of each image by id; names must not collide or leave the folder."""
    folder = out / "images" / split
    for place in (folder, label_path(folder / "x").parent):
        if place.is_dir() and any(place.iterdir()):
            raise ValueError(f"{place} is not empty; remove it or choose another folder")
    targets: dict[int, Path] = {}
    taken: dict[Path, str] = {}
    problems = []
    for image in records:
        name = str(image["file_name"])
        target = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            reason, remedy = f"file_name {name} leads out of the folder", "write a plain name"
            problems.append(Problem(file, image["id"], None, reason, remedy))
        elif other := taken.get(label_path(target)):
            reason = f"{name} and {other} would share a label file"
            problems.append(Problem(file, image["id"], None, reason, "rename one of them"))
        targets[image["id"]] = target
        taken[label_path(target)] = name
    if problems:
        raise DataProblems(problems)
    return targets


def _lines(
    objects: Iterable[Mapping[str, Any]],
    image: Mapping[str, Any],
    numbers: Mapping[int, int],
    counts: Counter[str],
) -> Iterable[str]:
    """Yield the lines of an image and count the kinds of their outlines."""
    size = int(image["height"]), int(image["width"])
    for annotation in objects:
        path = outline(annotation["segmentation"], size)
        if path is None:
            counts["without_pixel_left_out"] += 1
            continue
        counts["objects"] += 1
        counts[path.kind] += 1
        yield format_line(numbers[annotation["category_id"]], path.polygon, size)


def _place(source: Path, target: Path, lines: list[str], placing: Placing) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if placing == "copy":
        shutil.copyfile(source, target)
    else:
        target.symlink_to(source.resolve())
    labels = label_path(target)
    labels.parent.mkdir(parents=True, exist_ok=True)
    labels.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _declare(out: Path, split: str, names: list[str]) -> None:
    """Add a split to ``out/data.yaml``; paths are relative to it."""
    import yaml

    file = out / "data.yaml"
    existing = YoloSet.read(file).entries if file.exists() else {}
    entries = {name: listed[0] if len(listed) == 1 else listed for name, listed in existing.items()}
    content = entries | {split: f"images/{split}", "names": dict(enumerate(names))}
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
