"""Validation images held out of the training images of a set that has no validation split."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from datamodules.mil.folds import hold_out
from formats.files import atomic_write

_PURPOSE = 2  # separates the draw from those of bags, which have keys of their own
Coco = dict[str, Any]


def divide_images(data: Mapping[str, Any], fraction: float, seed: int) -> tuple[Coco, Coco]:
    """Divide a COCO dictionary by image.

    Images with and without objects are divided in the same proportion; the draw depends on their
    order and number and on the seed alone.  # A432

    Args:
        data: ``images``, ``annotations`` and ``categories``.
        fraction: share of the images that is held out, in (0, 1).
        seed: seed of the draw.

    Returns:
        The images that stay and those held out, each in the order of the file.

    Raises:
        ValueError: the fraction is so small that no image with an object is held out.
    """
    images = data["images"]
    with_objects = {a["image_id"] for a in data["annotations"] if not a.get("iscrowd")}
    kinds = np.array([int(image["id"] in with_objects) for image in images], dtype=np.int64)
    held = hold_out(kinds, fraction, (_PURPOSE, seed))
    if not held[kinds == 1].any():
        raise ValueError(
            f"val_fraction {fraction:g} of {kinds.sum()} images with objects is no image; raise "
            "it, or add a validation split"
        )
    chosen = {image["id"] for image, out in zip(images, held, strict=True) if out}
    return _part(data, chosen, inside=False), _part(data, chosen, inside=True)


def _part(data: Mapping[str, Any], chosen: set[Any], inside: bool) -> Coco:
    images = [image for image in data["images"] if (image["id"] in chosen) == inside]
    objects = [a for a in data["annotations"] if (a["image_id"] in chosen) == inside]
    return {**data, "images": images, "annotations": objects}


def check_fraction(fraction: float | None, place: object) -> None:
    """Refuse a share that is none, or that is given although there is a validation split.

    Args:
        fraction: share of the training images, or None.
        place: file or folder of the validation split, or None.

    Raises:
        ValueError: see above.
    """
    if fraction is None:
        return
    if not 0 < fraction < 1:
        raise ValueError(f"val_fraction is a share in (0, 1), got {fraction:g}")
    if place is not None:
        raise ValueError(
            f"data.val_fraction {fraction:g} holds out training images, but there is a validation "
            f"split, {place}; leave data.val_fraction out"
        )


def record_division(
    trainer: pl.Trainer | None, parts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write which images are held out to ``splits.csv`` in the run's folder; all processes call it.

    Args:
        trainer: the trainer; nothing is written without one or without its folder.
        parts: split -> records of its images with ``id`` and ``file_name``.
    """
    folder = trainer.log_dir if trainer is not None and trainer.loggers else None
    if trainer is None or folder is None or not trainer.is_global_zero:
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", "file_name", "split"])
    for split, images in parts.items():
        writer.writerows([image["id"], image["file_name"], split] for image in images)
    path = Path(folder) / "splits.csv"
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
    held, count = len(parts["val"]), sum(map(len, parts.values()))
    rank_zero_info(f"val_fraction: {held} of {count} images are held out, listed in {path}")
