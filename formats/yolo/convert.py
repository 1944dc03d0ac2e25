"""Conversion between COCO instances and YOLO segmentation text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from formats.coco.store import AnnotationStore
from formats.yolo.annotations import read_split
from formats.yolo.data_yaml import YoloSet
from formats.yolo.writer import Placing, coco_to_yolo, without_unclear
from structures import AnnotationPolicy, DataProblems, settle

Form = Literal["coco", "yolo"]


class Conversion(NamedTuple):
    """The result of a conversion.

    Attributes:
        counts: numbers of images and objects written and left out.
        source: the file that was read.
        folder: folder of the images that the output refers to.
        content: the COCO dictionary to write, None if the files are already written.
    """

    counts: dict[str, int]
    source: Path
    folder: Path
    content: dict[str, Any] | None


def convert(
    source: Form,
    target: Form,
    out: Path,
    *,
    annotations: Path | None = None,
    images: Path | None = None,
    data_yaml: Path | None = None,
    root: Path | None = None,
    split: str | None = None,
    skip_crowds: bool = False,
    boxes_as_masks: bool = False,
    placing: Placing = "copy",
    bad_data: AnnotationPolicy = "error",
) -> Conversion:
    """Convert one split of a data set.

    Args:
        source: format to read.
        target: format to write.
        out: folder of the YOLO set to write; unused for COCO.
        annotations: COCO file to read, with ``images``.
        images: folder of the images of the COCO file.
        data_yaml: YOLO set to read, with ``split``.
        root: folder of the YOLO data; overrides the folder in the file.
        split: name of the split to read or to write.
        skip_crowds: see ``coco_to_yolo``.
        boxes_as_masks: see ``yolo_to_coco``.
        placing: see ``coco_to_yolo``.
        bad_data: policy for faulty images and annotations.

    Raises:
        ValueError: an argument or a file is missing or wrong.
    """
    if source == target:
        raise ValueError(f"--from {source} --to {target} changes nothing; give two formats")
    if source == "coco":
        if annotations is None or images is None:
            raise ValueError("--from coco needs --annotations FILE.json and --images DIR")
        counts = coco_to_yolo(
            annotations,
            images,
            out,
            split=split,
            skip_crowds=skip_crowds,
            placing=placing,
            bad_data=bad_data,
        )
        return Conversion(counts, annotations, out, None)
    if data_yaml is None or split is None:
        raise ValueError("--from yolo needs --data data.yaml and --split train, val or test")
    content, folder, counts = yolo_to_coco(
        data_yaml, split, root=root, boxes_as_masks=boxes_as_masks, bad_data=bad_data
    )
    return Conversion(counts, data_yaml, folder, content)


def yolo_to_coco(
    data_yaml: Path,
    split: str,
    *,
    root: Path | None = None,
    boxes_as_masks: bool = False,
    bad_data: AnnotationPolicy = "error",
) -> tuple[dict[str, Any], Path, dict[str, int]]:
    """Read a split of a YOLO data set as COCO instances.

    Ids, boxes and areas (pixels of the mask) are the same as in ``YoloTxtDataModule``, so that both
    give the same scores.

    Args:
        data_yaml: the file that declares the set.
        split: ``train``, ``val`` or ``test``.
        root: folder of the data; overrides the folder in the file.
        boxes_as_masks: see ``YoloTxtDataModule``.
        bad_data: policy for faulty images and lines.

    Returns:
        The COCO dictionary, the folder that its file names are relative to, and the numbers of
        images and objects read and left out.

    Raises:
        ValueError: a file is missing or wrong.
    """
    dataset = YoloSet.read(data_yaml, root)
    findings = read_split(dataset, split, boxes_as_masks, mend=bad_data == "repair")
    data, turned = without_unclear(data_yaml, findings.data, findings.folder)
    problems = [*findings.problems, *turned]
    emptied = findings.counts["annotations"] > 0 and not data["annotations"]
    if problems and (emptied or not data["images"]):
        raise DataProblems(problems)
    settle(problems, bad_data)
    category_map = dataset.category_map
    store = AnnotationStore.from_coco(data, category_map.labels())
    areas = dict(zip(store.ids.tolist(), store.areas.tolist(), strict=True))
    for annotation in data["annotations"]:
        annotation["area"] = areas[annotation["id"]]
    with_objects = {a["image_id"] for a in data["annotations"]}
    counts = {
        "pictures": len(data["images"]),
        "pictures_without_objects": len(data["images"]) - len(with_objects),
        "objects": len(data["annotations"]),
        "objects_without_pixel": store.count_degenerate(),
        "problems_left_out": len(problems),
    }
    return data, findings.folder, counts
