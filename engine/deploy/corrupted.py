"""Images of a COCO file under the corruptions of the robustness benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.seg.dataset import AnnotatedImage
from engine.deploy.predict import CocoPredictor
from evaluation.robustness.corruptions import SMALLEST_SIDE, corrupt, image_seed
from evaluation.seg.coco import score_results
from evaluation.seg.coco_weighted import Matches, match_once
from formats.files import file_digest
from structures import DataProblems, Problem


@dataclass(frozen=True)
class Corruption:
    """Corrupts images at their own size, as they were read; the annotations stay.

    The random numbers of an image depend on the seed, its id, the name and the severity (A777), so
    that the same image results in any order, batch and worker process.

    Attributes:
        name: see `evaluation.robustness.corruptions.corrupt`.
        severity: 1 to 5.
        seed: of the evaluation.
        exact: every byte is that of the library.
    """

    name: str
    severity: int
    seed: int = 0
    exact: bool = False

    def __call__(self, annotated: AnnotatedImage) -> AnnotatedImage:
        """Return an image with corrupted pixels.

        Raises:
            ValueError: the image cannot be corrupted; the message names it.
        """
        seed = image_seed(self.seed, annotated.image_id, self.name, self.severity)
        try:
            image = corrupt(annotated.image, self.name, self.severity, seed, self.exact)
        except ValueError as error:
            raise ValueError(f"{annotated.name}: {error}") from error
        return annotated._replace(image=image)


def check_sizes(annotations: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Reject images that are too small for the corruptions, before any is read.

    Args:
        annotations: the file that lists them.
        records: ``id``, ``file_name``, ``height`` and ``width`` of each image.

    Raises:
        DataProblems: a side of an image is too short.
    """
    problems = [
        Problem(
            annotations,
            record["id"],
            None,
            f"{record['file_name']} is {record['height']} px high and {record['width']} px wide, "
            f"and corruptions need at least {SMALLEST_SIDE} pixels on each side",
            "leave the image out of the annotations",
        )
        for record in records
        if min(record["height"], record["width"]) < SMALLEST_SIDE
    ]
    if problems:
        raise DataProblems(problems)


def check_images(predictor: CocoPredictor, annotations: Path, corrupted: bool = True) -> None:
    """Reject images without objects, and those that cannot be corrupted if they should be.

    Raises:
        ValueError: no score is defined, or the images are what a camera has taken in the dark.
    """
    data = predictor.data
    if corrupted and data.left_alone("test"):
        raise ValueError(
            f"{annotations}: its images are what a camera has taken in the dark, and the "
            "corruptions are defined for ordinary images; name ordinary images"
        )
    counts = data.object_counts("test")
    if counts is not None and not counts.by_image.any():
        raise ValueError(
            f"{annotations}: no image has an object of the checkpoint's classes, so that no score "
            "is defined; name other annotations"
        )


def try_functions(predictor: CocoPredictor, corruptions: Sequence[Corruption]) -> None:
    """Call functions of the user for the first image, before what takes long.

    Args:
        predictor: a checkpoint and images.
        corruptions: any; those of the benchmark are left out, and each function is called once.

    Raises:
        ValueError: a function raises, or what it returns is no such image.
    """
    own = {one.name: one for one in reversed(corruptions) if "." in one.name}
    if own:
        first = predictor.data.source("test").read(0)
        for one in own.values():
            one(first)


def data_hash(annotations: Path, images: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """Return 16 hexadecimal digits that follow from the bytes of all files (A706).

    Args:
        annotations: the COCO file.
        images: folder of the images.
        records: ``file_name`` of each image that is evaluated.
    """
    digest = hashlib.sha256(file_digest(annotations))
    for record in records:
        digest.update(f"\n{record['file_name']} ".encode())
        digest.update(file_digest(images / record["file_name"]))
    return digest.hexdigest()[:16]


def scored_cell(
    predictor: CocoPredictor, corruption: Corruption | None, matched: bool = True
) -> tuple[dict[str, float], list[Matches]]:
    """Return the metrics of `evaluate.py coco` on clean or corrupted images, and the matches.

    A model without any prediction is scored for what it predicts: boxes and masks, or boxes.

    Args:
        predictor: a checkpoint and images.
        corruption: of the images, or None.
        matched: whether matches are returned, from which intervals are computed; else none are.
    """
    found, kinds = predictor.predict(corruption), predictor.module.iou_types
    truth, rows, most = found.ground_truth, found.rows, found.max_dets or 100
    metrics = score_results(truth, rows, max_dets=most, iou_types=kinds).metrics
    return metrics, [match_once(truth, rows, kind, most) for kind in kinds if matched]
