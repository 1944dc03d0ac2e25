"""Checks of single annotations of a COCO file, and whether they can be repaired."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats.coco.repair import Repaired, extent, repair
from formats.coco.shapes import (
    FRACTIONS,
    SMALLEST,
    are_finite,
    are_fractions,
    area_reason,
    box_reason,
    is_known,
    polygon_reason,
    rle_reason,
)
from structures import ImageId, Problem

COMPUTED = ("bbox", "area")  # keys of an annotation that can be computed from its mask


@dataclass(frozen=True)
class AnnotationCheck:
    """Checks of the annotations of one file.

    Attributes:
        path: path of the file, for the messages.
        images: valid images by id.
        categories: ids of the categories.
        keys: keys that an annotation must have.
    """

    path: Path
    images: Mapping[ImageId, Mapping[str, Any]]
    categories: Collection[int]
    keys: Collection[str]

    def problems(
        self, number: int, annotation: Mapping[str, Any], covered: int | None = None
    ) -> Iterator[Problem]:
        """Yield the problems of an annotation, the ``number``-th one of the file."""
        image_id, own = annotation["image_id"], annotation["id"]
        for reason, remedy in self._faults(number, annotation, covered):
            yield Problem(self.path, image_id, own, reason, remedy)

    def mended(self, number: int, annotation: Mapping[str, Any]) -> Repaired | None:
        """Return the repaired annotation; None if it would still have a fault."""
        if not is_known(annotation["image_id"], self.images):
            return None
        found = repair(annotation, *self._size(annotation), self.keys)
        if found is None or any(True for _ in self.problems(number, found.annotation)):
            return None
        return found

    def is_empty(self, annotation: Mapping[str, Any]) -> bool:
        """Return whether neither the box nor the mask has an area."""
        box, mask = annotation.get("bbox"), annotation.get("segmentation")
        if not mask or not is_known(annotation["image_id"], self.images):
            return False
        if not (isinstance(box, list) and len(box) == 4 and are_finite(box) and min(box[2:]) == 0):
            return False
        return extent(mask, box, *self._size(annotation)) is None

    def _size(self, annotation: Mapping[str, Any]) -> tuple[int, int]:
        image = self.images[annotation["image_id"]]
        return image["height"], image["width"]

    def _faults(
        self, number: int, annotation: Mapping[str, Any], covered: int | None
    ) -> Iterator[tuple[str, str]]:
        """Yield reason and remedy of every fault of an annotation."""
        missing = [key for key in COMPUTED if key in self.keys and key not in annotation]
        if missing:
            reason = f"annotation number {number} (id {annotation['id']}) lacks "
            yield reason + ", ".join(missing), "add the key or remove the record"
        if not is_known(annotation["image_id"], self.images):
            yield "no such image", _image_remedy(annotation["image_id"], self.images)
            return
        if not is_known(annotation["category_id"], self.categories):
            reason = f"category {annotation['category_id']} is not declared"
            yield reason, f"declare it; known are {sorted(self.categories)[:10]}"
        size = self._size(annotation)
        if "bbox" in annotation and (reason := box_reason(annotation["bbox"], *size)):
            yield reason, "write [x, y, width, height] in pixels or remove the annotation"
        if reason := area_reason(annotation.get("area", 0)):
            yield reason, "write square pixels or leave it out"
        if annotation.get("iscrowd", 0) not in (0, 1):
            yield f"iscrowd is {annotation['iscrowd']!r}", "write 0 or 1"
        mask: Any = annotation.get("segmentation")
        if "segmentation" not in self.keys and mask in (None, []):  # A53
            return
        polygons = isinstance(mask, list)
        if reason := polygon_reason(mask, *size) if polygons else rle_reason(mask, *size, covered):
            yield reason, _mask_remedy(reason)
        elif polygons and are_fractions(mask) and min(size) >= SMALLEST:
            yield "its polygons lie between 0 and 1, so they are fractions of the sides", FRACTIONS


def _image_remedy(image_id: Any, images: Collection[ImageId]) -> str:
    """Return what to do about an annotation whose image is not listed."""
    if isinstance(image_id, str) and image_id.isdecimal() and int(image_id) in images:
        return f"write the image_id as the number {image_id}, without quotes"
    if isinstance(image_id, int) and str(image_id) in images:
        return f'write the image_id as the text "{image_id}", as the images do'
    return "add the image or remove the annotation"


def _mask_remedy(reason: str) -> str:
    """Return what to do about a faulty mask."""
    if "points [x, y]" in reason:
        return "write each polygon as one list x1, y1, x2, y2, ... or redraw the annotation"
    if reason.startswith("run-length mask of size"):
        return "encode the mask at the size of the image, or remove the annotation"
    return "redraw or remove the annotation"
