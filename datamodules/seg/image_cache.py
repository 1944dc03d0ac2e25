"""Cache of recently read images, for samples that are composed of several images."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from datamodules.seg.dataset import AnnotatedImage, ImageSource
from datamodules.transforms.canvas import Tile
from datamodules.transforms.resize import resize_image, resize_maps, target_size
from structures import ImageId


class CachedImage(NamedTuple):
    """An image ready to be drawn.

    Attributes:
        tile: the reduced image and its instances.
        size: (height, width) of the image in its source.
        image_id: id of the image in the data set.
        name: name of the image in error messages.
    """

    tile: Tile
    size: tuple[int, int]
    image_id: ImageId
    name: str


def reduce_image(image: AnnotatedImage, long_side: int) -> CachedImage:
    """Shrink an image and its masks to a longer side of at most ``long_side`` pixels."""
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
    """Reads images and caches a bounded number of them; the results do not depend on the cache.

    The cache prefers the images most recently read as the main image of a sample. Images read as
    neighbours only use free room and are evicted first: another worker has them as main images, and
    they would otherwise displace images that are still needed here.

    Copies in other processes start with an empty cache.

    Args:
        source: the images.
        long_side: largest longer side of a cached image; larger images are reduced.
        capacity: number of images in the cache.
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
            index: index of the image.
            renew: whether it is the main image of a sample.
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
