"""Reading and checking of COCO ground truth for scoring and prediction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.seg.coco_files import HEADER_LIMIT
from formats.coco.image_checks import unusable_images
from formats.coco.results import ANNOTATION_KEYS, IMAGE_KEYS, read_ground_truth
from formats.images import ANY_SIZE, Depth
from structures import AnnotationPolicy, Problem


def image_folder_of(annotations: Path) -> Path:
    """Guess the image folder of an annotation file, which depends on the layout of the data set.

    For ``DIR/annotations/instances_SPLIT.json`` it is ``DIR/images/SPLIT`` or ``DIR/SPLIT``, for
    Roboflow's ``DIR/_annotations.coco.json`` it is ``DIR``.

    Raises:
        ValueError: the folder does not exist.
    """
    split = annotations.stem.removeprefix("instances_")
    above, beside = annotations.parent.parent, annotations.parent
    if annotations.name == "_annotations.coco.json":
        return beside
    for folder in (above / "images" / split, beside / "images", above / split):
        if folder.is_dir():
            return folder
    raise ValueError(f"{annotations}: cannot guess the image folder; give it by --images DIR")


def read_to_predict(
    annotations: Path,
    images: Path | None,
    policy: AnnotationPolicy = "error",
    categories: Collection[int] | None = None,
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """Read ground truth with all checks that scoring and prediction rely on.

    Args:
        annotations: COCO ground truth.
        images: image folder; None searches next to the annotations.
        policy: ``skip`` leaves out faulty images and annotations, ``repair`` first mends what it
            can. Both keep annotations without a mask, because their boxes can be scored.
        categories: annotations of other category ids are left out unseen; None for all.

    Returns:
        The content of the file, and the problems of images and annotations left out or repaired.

    Raises:
        DataProblems: see `formats.coco.results.read_ground_truth`.
        ValueError: the image folder cannot be guessed.
    """
    folder = images or image_folder_of(annotations)

    def look(records: Sequence[Any]) -> Mapping[int, Problem]:  # as deep as `CocoDataModule` does
        deep = policy != "error" and len(records) <= HEADER_LIMIT
        depth: Depth = "pixels" if deep else "header"
        return unusable_images(annotations, records, folder, depth, ANY_SIZE)

    return read_ground_truth(
        annotations,
        policy,
        look,
        image_keys=(*IMAGE_KEYS, "file_name"),
        annotation_keys=(*ANNOTATION_KEYS, *(["segmentation"] if policy == "error" else [])),
        categories=categories,
    )
