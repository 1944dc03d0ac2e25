"""The annotations of LVIS-OW from those of LVIS v1 (SegPrompt, arXiv 2308.06531).

Training keeps the images without a rare category, and in them only the known categories.
Validation has LVIS v1's validation images and the training images that were removed, with all
annotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlparse

from formats.coco.splits import CategorySplit

_SHIFT = 2_000_000  # added to the ids of annotations that move, as in the authors' files


class LVISOW(NamedTuple):
    """Contents of both files, and what became of the images and annotations."""

    train: dict[str, Any]
    val: dict[str, Any]
    counts: dict[str, int]


def lvis_ow(train: Mapping[str, Any], val: Mapping[str, Any], split: CategorySplit) -> LVISOW:
    """Return the annotations of LVIS-OW.

    Args:
        train: content of LVIS v1's training annotations.
        val: content of its validation annotations.
        split: known and unseen category ids.

    Raises:
        ValueError: an image is in both files, or a moved annotation gets an id of validation.
    """
    known, unseen = set(split.known), set(split.unseen or ())
    rare = {a["image_id"] for a in train["annotations"] if a["category_id"] in unseen}
    stay = [image for image in train["images"] if image["id"] not in rare]
    move = [image for image in train["images"] if image["id"] in rare]
    kept = [
        a for a in train["annotations"] if a["image_id"] not in rare and a["category_id"] in known
    ]
    moved = [{**a, "id": a["id"] + _SHIFT} for a in train["annotations"] if a["image_id"] in rare]
    _check_apart("image", val["images"], move)
    _check_apart("annotation", val["annotations"], moved)
    contents = {
        "train": {"images": stay, "annotations": kept},
        "val": {
            "images": [*val["images"], *move],
            "annotations": [*val["annotations"], *moved],
        },
    }
    for content in contents.values():
        content["images"] = [_named(image) for image in content["images"]]
        content["categories"] = list(train["categories"])
    counts = {
        f"{name}_{key}": len(content[key])
        for name, content in contents.items()
        for key in ("images", "annotations")
    }
    counts |= {"moved_images": len(move), "moved_annotations": len(moved)}
    return LVISOW(contents["train"], contents["val"], counts)


def _check_apart(
    what: str, here: Iterable[Mapping[str, Any]], more: Iterable[Mapping[str, Any]]
) -> None:
    twice = {record["id"] for record in here} & {record["id"] for record in more}
    if twice:
        raise ValueError(
            f"{what} id {min(twice)} of --train is also in --val; give LVIS v1's own files, "
            "lvis_v1_train.json and lvis_v1_val.json"
        )


def _named(image: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with a ``file_name``, such as ``train2017/000000391895.jpg``."""
    if "file_name" in image or "coco_url" not in image:
        return dict(image)
    folder, name = urlparse(image["coco_url"]).path.split("/")[-2:]
    return {**image, "file_name": f"{folder}/{name}"}
