"""From a picture and its instances to a one-picture batch: augment, resize, read the boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from datamodules.samplers import SampleKey, keyed_generator
from datamodules.transforms import (
    Augmentation,
    LabelMaps,
    resize_maps,
    resize_picture,
    target_size,
)
from structures import SegBatch

_AUGMENT_PURPOSE = 3


class AnnotatedPicture(NamedTuple):
    """A picture as its source holds it.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        maps: the masks of its K instances.
        labels: (K,) int64, 0-based foreground classes.
        crowd: (K,) bool.
        image_id: the data set's own id.
        name: how to name the picture in a message.
    """

    image: npt.NDArray[np.uint8]
    maps: LabelMaps
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    image_id: int
    name: str


class PictureSource(Protocol):
    """A split of a data set; items keep their number for good."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def read(self, index: int) -> AnnotatedPicture:
        """Return one picture; equal for equal ``index`` in every process."""
        ...

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return (n, 2), height and width of every picture, without reading pixels."""
        ...

    def counts(self) -> npt.NDArray[np.int64]:
        """Return (n,), instances that are not crowds of every picture."""
        ...


@dataclass(frozen=True)
class SegDataset(Dataset[SegBatch]):
    """Produces the sample of a key.

    Attributes:
        source: where pictures come from.
        augmentation: what is done to them before they are resized, or None.
        seed: seeds the augmentation together with the key's epoch and index.
        short_side: length of the shorter side unless the key brings one; None to use ``scale``.
        scale: factor on the size where there is no short side.
        max_long_side: cap on the longer side, or None.
        mask_stride: pixels per cell of the masks.
    """

    source: PictureSource
    augmentation: Augmentation | None = None
    seed: int = 0
    short_side: int | None = None
    scale: float = 1.0
    max_long_side: int | None = None
    mask_stride: int = 1

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> SegBatch:
        """Return the batch of the one picture ``key.index``.

        Instances without a pixel left are dropped with their labels.

        Raises:
            ValueError: an augmentation cannot handle the picture, naming it.
        """
        picture = self.source.read(key.index)
        original = picture.image.shape[:2]
        image, maps = picture.image, picture.maps
        if self.augmentation is not None:
            rng = keyed_generator(_AUGMENT_PURPOSE, self.seed, key.epoch, key.index)
            try:
                image, maps = self.augmentation(image, maps, rng)
            except ValueError as error:
                raise ValueError(
                    f"{picture.name}, {original[0]} px high and {original[1]} px wide: {error}"
                ) from error
        short_side = self.short_side if key.size is None else key.size
        size = target_size(maps.size, short_side, self.scale, self.max_long_side)
        image, maps = resize_picture(image, size), resize_maps(maps, size)
        keep, boxes, masks = maps.targets(self.mask_stride)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return SegBatch(
            images=pixels.to(torch.float32).div_(255)[None],
            sizes=torch.tensor([size]),
            boxes=torch.from_numpy(boxes),
            labels=torch.from_numpy(picture.labels[keep]),
            masks=torch.from_numpy(masks),
            counts=torch.tensor([keep.size]),
            crowd=torch.from_numpy(picture.crowd[keep]),
            index=torch.tensor([key.index]),
            original_sizes=torch.tensor([original]),
            image_ids=(picture.image_id,),
            mask_stride=self.mask_stride,
        )
