"""Reading and checking of COCO ground truth for scoring and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.seg.coco_files import HEADER_LIMIT
from formats.coco.image_checks import unusable_images
from formats.coco.results import ANNOTATION_KEYS, IMAGE_KEYS, read_ground_truth
from structures import BadDataPolicy, DataProblems, Problem


def image_folder_of(annotations: Path) -> Path:
    """Guess the image folder of ``DIR/annotations/instances_SPLIT.json``: ``DIR/images/SPLIT``.

    Raises:
        ValueError: the folder does not exist.
    """
    split = annotations.stem.removeprefix("instances_")
    for folder in (annotations.parent.parent / "images" / split, annotations.parent / "images"):
        if folder.is_dir():
            return folder
    raise ValueError(f"{annotations}: cannot guess the image folder; give it by --images DIR")


def read_to_predict(
    annotations: Path, images: Path | None, policy: BadDataPolicy = "error"
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """Read ground truth with all checks that scoring and prediction rely on.

    Args:
        annotations: COCO ground truth.
        images: image folder; None searches next to the annotations.
        policy: ``skip`` leaves out faulty images and annotations. It keeps annotations without a
            mask, because their boxes can be scored.

    Returns:
        The content of the file, and the problems of the images and annotations left out.

    Raises:
        DataProblems: see `formats.coco.results.read_ground_truth`; or no image is left.
        ValueError: the image folder cannot be guessed.
    """
    folder = images or image_folder_of(annotations)

    def look(records: Sequence[Any]) -> Mapping[int, Problem]:  # as deep as `CocoDataModule` does
        deep = policy == "skip" and len(records) <= HEADER_LIMIT
        return unusable_images(annotations, records, folder, "pixels" if deep else "header")

    truth, problems = read_ground_truth(
        annotations,
        policy,
        look,
        image_keys=(*IMAGE_KEYS, "file_name"),
        annotation_keys=(*ANNOTATION_KEYS, *(["segmentation"] if policy == "error" else [])),
    )
    if not truth["images"]:
        reason, remedy = "no image is left", "fix some of them"
        raise DataProblems([*problems, Problem(annotations, None, None, reason, remedy)])
    return truth, problems
