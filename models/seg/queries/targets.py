"""Objects of a batch as targets of queries. Crowds are none (A542)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from models.seg.mask_rcnn.matching import check_targets
from structures import SegBatch


class ImageObjects(NamedTuple):
    """Objects of one image.

    Attributes:
        rows: (O,) int64, rows of the objects in the batch.
        labels: (O,) int64.
    """

    rows: Tensor
    labels: Tensor


class Matched(NamedTuple):
    """Pairs of query and object of one output, those of all images one after the other.

    Attributes:
        images: (N,) int64.
        queries: (N,) int64.
        numbers: (N,) int64, number of the object within the objects of its image.
        rows: (N,) int64, row of the object in the batch.
        labels: (N,) int64.
    """

    images: Tensor
    queries: Tensor
    numbers: Tensor
    rows: Tensor
    labels: Tensor


def image_objects(batch: SegBatch, num_classes: int) -> list[ImageObjects]:
    """Split the objects of a batch by image, without crowds.

    Raises:
        ValueError: a box is empty or not finite, a label is not in [0, num_classes), or ``counts``
            does not sum to the number of boxes.
    """
    check_targets(batch, num_classes)
    rows = torch.arange(batch.labels.shape[0], device=batch.labels.device)
    kept = [part[~batch.crowd[part]] for part in torch.split(rows, batch.count_list())]
    return [ImageObjects(part, batch.labels[part]) for part in kept]


def match_pairs(objects: list[ImageObjects], pairs: Iterable[tuple[Tensor, Tensor]]) -> Matched:
    """Put the pairs of the images of one output together.

    Args:
        objects: of each image.
        pairs: queries and numbers of objects of each image, on the host, as `assign` returns them.
    """
    device = objects[0].rows.device
    queries, numbers = zip(*pairs, strict=True)
    sizes = torch.tensor([len(one) for one in queries])
    images = torch.arange(len(queries)).repeat_interleave(sizes)
    starts = torch.tensor([0, *(len(one.rows) for one in objects)]).cumsum(0)[images]
    number = torch.cat(numbers)
    both = torch.stack([images, torch.cat(queries), number, starts + number]).to(device)
    places = both[3]
    rows = torch.cat([one.rows for one in objects])[places]
    labels = torch.cat([one.labels for one in objects])[places]
    return Matched(both[0], both[1], both[2], rows, labels)


def warn_of_too_many(batch: SegBatch, objects: list[ImageObjects], num_queries: int) -> None:
    """Warn of each image that has more objects than there are queries.

    Python shows the warning of an image once, since texts differ between images.
    """
    for position, one in enumerate(objects):
        if len(one.rows) <= num_queries:
            continue
        index = f"of index {int(batch.index[position])}"
        name = batch.image_ids[position] if batch.image_ids else index
        warnings.warn(
            f"image {name} has {len(one.rows)} objects, but the model has {num_queries} queries; "
            "the rest is not learnt. Raise num_queries, or use smaller crops",
            stacklevel=2,
        )
