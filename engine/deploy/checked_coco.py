"""A COCO file that is read and checked once for scoring and for all checkpoints that predict it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.seg.base import Split
from datamodules.seg.coco import CocoDataModule, CocoSource
from datamodules.seg.coco_files import HEADER_LIMIT
from formats.coco.document import CocoFindings
from formats.coco.image_checks import unusable_pictures
from formats.coco.results import ANNOTATION_KEYS, IMAGE_KEYS, read_ground_truth
from structures import BadDataPolicy, DataProblems, Problem


def image_folder_of(annotations: Path) -> Path:
    """Guess the image folder of ``DIR/annotations/instances_SPLIT.json``: ``DIR/images/SPLIT``.

    Raises:
        ValueError: there is no such folder.
    """
    split = annotations.stem.removeprefix("instances_")
    for folder in (annotations.parent.parent / "images" / split, annotations.parent / "images"):
        if folder.is_dir():
            return folder
    raise ValueError(f"{annotations}: cannot guess the picture folder; give it by --images DIR")


def read_to_predict(
    annotations: Path, images: Path | None, policy: BadDataPolicy = "error"
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """Read ground truth with all checks that scoring and `CheckedCocoDataModule` rely on.

    Args:
        annotations: COCO ground truth.
        images: image folder; None looks beside the annotations.
        policy: ``skip`` leaves out faulty images and annotations. Annotations without a mask are
            kept then, because boxes can be scored.

    Returns:
        The file's content and the problems of what was left out.

    Raises:
        DataProblems: see `formats.coco.results.read_ground_truth`; or no image is left.
        ValueError: the image folder cannot be guessed.
    """
    folder = images or image_folder_of(annotations)

    def look(records: Sequence[Any]) -> Mapping[int, Problem]:  # as deep as `CocoDataModule` does
        deep = policy == "skip" and len(records) <= HEADER_LIMIT
        return unusable_pictures(annotations, records, folder, "pixels" if deep else "header")

    truth, problems = read_ground_truth(
        annotations,
        policy,
        look,
        image_keys=(*IMAGE_KEYS, "file_name"),
        annotation_keys=(*ANNOTATION_KEYS, *(["segmentation"] if policy == "error" else [])),
    )
    if not truth["images"]:
        reason, remedy = "no picture is left", "mend some of them"
        raise DataProblems([*problems, Problem(annotations, None, None, reason, remedy)])
    return truth, problems


class CheckedCocoDataModule(CocoDataModule):
    """The test images of a COCO file that has been read; it is not read again.

    Args:
        truth: content of the file, as `read_to_predict` returns it.
        **arguments: of `CocoDataModule`: ``test_images``; ``test_annotations``, for messages;
            ``category_map``; and how images are prepared.
    """

    def __init__(self, truth: Mapping[str, Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        masked = [a for a in truth["annotations"] if a.get("segmentation")]
        self._truth = {**truth, "annotations": masked}

    def source(self, split: Split) -> CocoSource:
        """Return the images; there is one split.

        Raises:
            UnusableData: the categories contradict ``category_map``.
        """
        if "test" not in self._sources:
            self._admit({"test": CocoFindings([], False, self._truth)})
            self._add_source("test", self._truth)
        return self._sources["test"]
