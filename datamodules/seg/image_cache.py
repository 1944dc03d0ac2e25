"""Images that were just read, for samples that are made of several."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from datamodules.seg.dataset import AnnotatedImage, ImageSource
from datamodules.transforms.canvas import Tile
from datamodules.transforms.resize import resize_image, resize_maps, target_size


class CachedImage(NamedTuple):
    """An image ready to be drawn.

    Attributes:
        tile: it and its instances, reduced.
        size: (height, width) of the image as its source has it.
        image_id: the data set's own id.
        name: how to name it in a message.
    """

    tile: Tile
    size: tuple[int, int]
    image_id: int
    name: str


def reduce_image(image: AnnotatedImage, long_side: int) -> CachedImage:
    """Shrink an image and its masks to a longer side of ``long_side``; smaller ones stay."""
    size = image.maps.size
    reduced = target_size(size, None, 1.0, long_side)
    tile = Tile.of(
        resize_image(image.image, reduced),
        resize_maps(image.maps, reduced),
        image.labels,
        image.crowd,
    )
    return CachedImage(tile, size, image.image_id, image.name)


class ImageCache:
    """Reads images and keeps a bounded number of them; what it returns does not depend on that.

    Kept are the last images that were read for a sample's own sake. What is read as a neighbour
    takes room that is free, and goes first: it is what another worker has, and would else displace
    what is still wanted here.

    Copies for other processes start empty.

    Args:
        source: where images come from.
        long_side: images are kept with their longer side reduced to this.
        capacity: images kept.
    """

    def __init__(self, source: ImageSource, long_side: int, capacity: int) -> None:
        self.source = source
        self.long_side = long_side
        self.capacity = capacity
        self._kept: OrderedDict[int, CachedImage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}

    def read(self, index: int, renew: bool = False) -> CachedImage:
        """Return an image of the source.

        Args:
            index: its number.
            renew: whether it is for a sample's own sake.
        """
        found = self._kept.get(index)
        if found is None:
            found = reduce_image(self.source.read(index), self.long_side)
            self._kept[index] = found
            self._kept.move_to_end(index, last=renew)
            while len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
        elif renew:
            self._kept.move_to_end(index)
        return found
