"""A batch of images with their instances, packed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from structures.batch import Batch
from structures.transferable import check_dtype, check_field

IMAGE_LABELS = ("negative", "not_exhaustive")  # fields of labels that hold for a whole image
ImageId = int | str  # id of an image in its data set; all of a data set have one type


class ImageTargets(NamedTuple):
    """Boxes, labels, masks and crowd flags of one image of a batch, as views."""

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    crowd: Tensor


@dataclass(frozen=True, slots=True)
class SegBatch(Batch):
    """Images and targets of one step: B images whose M instances are concatenated in order.

    Conventions of the whole project: boxes are (x1, y1, x2, y2) in pixels, half-open, so that the
    pixel in column c has its centre at c + 0.5; labels are 0-based foreground classes (a model
    adds a background class internally); images are RGB in [0, 1]; all coordinates refer to the
    padded ``images``.

    Attributes:
        images: (B, C, H, W) float, padded with zeros at the bottom and on the right; C is 3, or 4
            for RAW images with two greens (R, Gr, B, Gb).
        sizes: (B, 2) int64, valid (height, width) before padding.
        boxes: (M, 4) float.
        labels: (M,) int64.
        masks: (M, ceil(H / s), ceil(W / s)) bool with s = ``mask_stride``.
        counts: (B,) int64, instances per image; sums to M.
        crowd: (M,) bool, True for regions of many objects, which are never positive examples.
        index: (B,) int64, the stable number of each image in its data set.
        original_sizes: (B, 2) int64, (height, width) of the image file, to which predictions are
            scaled back.
        image_ids: the ids of the images in the data set, or empty.
        mask_stride: pixels of ``images`` per cell of ``masks``.
        clean_images: a second view of the images, without noise, of the same shape; or None.
        negative: (B, classes) bool, classes that annotators have looked for in an image in vain, as
            LVIS has them; or None.
        not_exhaustive: (B, classes) bool, classes of which an image has objects without a label; or
            None.

    Raises:
        ValueError: a rank, an extent or a dtype is wrong. Values are never read here, because
            ``to`` constructs the batch again on the device.
    """

    images: Tensor
    sizes: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor
    counts: Tensor
    crowd: Tensor
    index: Tensor
    original_sizes: Tensor
    image_ids: tuple[ImageId, ...] = ()
    mask_stride: int = 1
    clean_images: Tensor | None = None
    negative: Tensor | None = None
    not_exhaustive: Tensor | None = None

    def __post_init__(self) -> None:
        name = "SegBatch"
        channels = 4 if self.images.shape[1:2] == (4,) else 3
        check_field(name, "images", self.images, ("B", channels, "H", "W"))
        batch, _, height, width = self.images.shape
        if self.clean_images is not None:
            check_field(name, "clean_images", self.clean_images, tuple(self.images.shape))
        check_field(name, "boxes", self.boxes, ("M", 4))
        total = self.boxes.shape[0]
        if self.mask_stride < 1:
            raise ValueError(f"SegBatch.mask_stride must be at least 1, got {self.mask_stride}")
        rows, columns = -(-height // self.mask_stride), -(-width // self.mask_stride)
        check_field(name, "sizes", self.sizes, (batch, 2))
        check_field(name, "original_sizes", self.original_sizes, (batch, 2))
        check_field(name, "labels", self.labels, (total,))
        check_field(name, "masks", self.masks, (total, rows, columns))
        check_field(name, "counts", self.counts, (batch,))
        check_field(name, "crowd", self.crowd, (total,))
        check_field(name, "index", self.index, (batch,))
        for field in ("images", "boxes"):
            check_dtype(name, field, getattr(self, field), "float")
        for field in ("sizes", "original_sizes", "labels", "counts", "index"):
            check_dtype(name, field, getattr(self, field), "integer")
        for field in ("masks", "crowd"):
            check_dtype(name, field, getattr(self, field), "bool")
        for field in IMAGE_LABELS:
            if (value := getattr(self, field)) is not None:
                check_field(name, field, value, (batch, "classes"))
                check_dtype(name, field, value, "bool")
        if self.image_ids and len(self.image_ids) != batch:
            raise ValueError(
                f"SegBatch.image_ids must name {batch} images, got {len(self.image_ids)}"
            )

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def units(self) -> dict[str, int]:
        """Return the number of images."""
        return {"pictures": len(self)}

    def count_list(self) -> list[int]:
        """Return ``counts`` as a list; copies it to the host.

        Raises:
            ValueError: ``counts`` does not sum to the number of boxes.
        """
        counts: list[int] = self.counts.tolist()
        if sum(counts) != self.boxes.shape[0]:
            raise ValueError(
                f"SegBatch.counts sums to {sum(counts)} but there are {self.boxes.shape[0]} boxes"
            )
        return counts

    def targets(self) -> list[ImageTargets]:
        """Split the instances by image, as views; copies ``counts`` to the host.

        Raises:
            ValueError: ``counts`` does not sum to the number of boxes.
        """
        counts = self.count_list()
        parts = [
            torch.split(value, counts)
            for value in (self.boxes, self.labels, self.masks, self.crowd)
        ]
        return [ImageTargets(*fields) for fields in zip(*parts, strict=True)]

    def image(self, position: int) -> SegBatch:
        """Return the batch that holds only the image at ``position``, padding unchanged.

        Raises:
            ValueError: ``counts`` does not sum to the number of boxes.
        """
        counts = self.count_list()
        start = sum(counts[:position])
        rows = slice(start, start + counts[position])
        one = slice(position, position + 1)
        return dataclasses.replace(
            self,
            images=self.images[one],
            sizes=self.sizes[one],
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            masks=self.masks[rows],
            counts=self.counts[one],
            crowd=self.crowd[rows],
            index=self.index[one],
            original_sizes=self.original_sizes[one],
            image_ids=self.image_ids[one],
            clean_images=None if self.clean_images is None else self.clean_images[one],
            negative=None if self.negative is None else self.negative[one],
            not_exhaustive=None if self.not_exhaustive is None else self.not_exhaustive[one],
        )
