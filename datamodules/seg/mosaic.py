"""Training samples composed of several images: mosaic, copy-paste, mixup and colour jitter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset

from datamodules.sampling.keys import SampleKey, keyed_generator
from datamodules.seg.dataset import (
    AUGMENT_PURPOSE,
    ImageSource,
    Sample,
    augment_named,
    pack_samples,
)
from datamodules.seg.image_cache import CachedImage, ImageCache
from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.transforms.affine import Matrix, draw_affine, letterbox, mirror
from datamodules.transforms.augment import Augmentation
from datamodules.transforms.canvas import Canvas
from datamodules.transforms.copy_paste import paste_objects
from datamodules.transforms.cutouts import cutout_targets, join_cutouts
from datamodules.transforms.hsv import draw_colours
from datamodules.transforms.mixup import mix
from datamodules.transforms.mosaic import mosaic_layout
from structures import SegBatch

_MOSAIC_PURPOSE = 9


@dataclass(frozen=True)
class MosaicDataset(Dataset[SegBatch]):
    """Data set of square samples composed according to `MosaicOptions`.

    A sample depends only on (seed, epoch, index), the neighbours in the key and its size.

    Attributes:
        source: the images.
        options: options of the composition.
        seed: seeds all random choices together with the key's epoch and index.
        close_from: first epoch, counted from 0, in which all samples are single images; None for
            never.
        largest: largest side that a key may request (A232), or None for ``options.size``.
        augmentation: augmentation applied to the composed sample, or None.
        mask_stride: pixels per cell of the masks.
        kept: number of decoded images in the cache, see `images_to_keep`; None to derive it from
            the window.
    """

    source: ImageSource
    options: MosaicOptions = field(default_factory=MosaicOptions)
    seed: int = 0
    close_from: int | None = None
    largest: int | None = None
    augmentation: Augmentation | None = None
    mask_stride: int = 1
    kept: int | None = None
    cache: ImageCache = field(init=False, repr=False)

    def __post_init__(self) -> None:
        side = self.options.size if self.largest is None else self.largest
        self.options.check_side(side)
        kept = self.options.window + 1 if self.kept is None else self.kept
        # the dataclass is frozen; the attribute is set before the object is used
        object.__setattr__(self, "cache", ImageCache(self.source, side, kept))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> SegBatch:
        """Return the batch of one sample; ``image_ids`` names the image ``key.index``.

        The whole square is valid, and it is the frame in which predictions are returned.
        Instances that are barely visible are dropped, see ``Instance.is_visible``.

        Raises:
            ValueError: an image cannot be read or augmented; the message names it.
        """
        return pack_samples([self._sample(key)], self.mask_stride)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[SegBatch]:
        """Return the samples of a batch, packed into one ``SegBatch`` if their sizes are equal.

        A ``DataLoader`` calls this method if it exists. Pixels are then written only once, directly
        into the batch.
        """
        for key in keys:  # they are neighbours of each other
            self.cache.read(key.index, renew=True)
        samples = [self._sample(key) for key in keys]
        if len({sample.image.shape for sample in samples}) == 1:
            return [pack_samples(samples, self.mask_stride)]
        return [pack_samples([sample], self.mask_stride) for sample in samples]

    def _sample(self, key: SampleKey) -> Sample:
        own = self.cache.read(key.index, renew=True)
        canvas = self._compose(key, own)
        image = canvas.image
        kept = [x for x in canvas.instances if x.is_visible(*self._visible)]
        if self.augmentation is None:
            targets = cutout_targets([x.cutout for x in kept], canvas.size, self.mask_stride)
        else:
            maps = join_cutouts([x.cutout for x in kept], canvas.size)
            rng = keyed_generator(AUGMENT_PURPOSE, self.seed, *key.draw)
            image, maps = augment_named(self.augmentation, image, maps, rng, own.name)
            targets = maps.targets(self.mask_stride)
        chosen = targets.keep
        return Sample(
            image,
            targets,
            np.array([x.label for x in kept], dtype=np.int64)[chosen],
            np.array([x.crowd for x in kept], dtype=bool)[chosen],
            number=key.index,
            original_size=(image.shape[0], image.shape[1]),
            image_id=own.image_id,
        )

    @property
    def _visible(self) -> tuple[float, float]:
        return self.options.min_side, self.options.min_visible

    def _compose(self, key: SampleKey, own: CachedImage) -> Canvas:
        """Return the canvas of a key before the changes of the whole canvas."""
        options = self.options
        rng = keyed_generator(_MOSAIC_PURPOSE, self.seed, *key.draw)
        side = options.size if key.size is None else key.size
        colours = draw_colours(rng, options.hsv)
        mirrored = mirror(side, *self._draw_flips(rng))
        pastes, mixes = rng.uniform(size=2) < (options.copy_paste, options.mixup)
        canvas = self._draw_images(key, own, Canvas(side, colours), mirrored, rng)
        if pastes:
            donor = Canvas(side, colours)
            tile = self.cache.read(self._neighbours(key, 1, rng)[0]).tile
            affine = mirror(side, *self._draw_flips(rng)) @ draw_affine(rng, options, side, side)
            donor.draw(tile, affine @ letterbox(tile.size, side))
            paste_objects(rng, canvas, donor, *self._visible)
        if mixes:
            other = self.cache.read(self._neighbours(key, 1, rng)[0])
            mix(rng, canvas, self._draw_images(key, other, Canvas(side, colours), mirrored, rng))
        return canvas

    def _draw_flips(self, rng: np.random.Generator) -> list[bool]:
        flips = rng.uniform(size=2) < (self.options.flip, self.options.flip_vertical)
        return [bool(flip) for flip in flips]

    def _neighbours(self, key: SampleKey, count: int, rng: np.random.Generator) -> list[int]:
        """Draw images near the key's image; the image itself if there is no other."""
        choices = key.neighbours or (key.index,)
        return [choices[n] for n in rng.integers(len(choices), size=count)]

    def _draw_images(
        self,
        key: SampleKey,
        own: CachedImage,
        canvas: Canvas,
        mirrored: Matrix,
        rng: np.random.Generator,
    ) -> Canvas:
        """Draw a mosaic of the image and three others, or only the image."""
        closed = self.close_from is not None and key.epoch >= self.close_from
        tiles, side = [own.tile], canvas.size[0]
        if rng.uniform() < self.options.probability and not closed:
            tiles += [self.cache.read(index).tile for index in self._neighbours(key, 3, rng)]
            layout = mosaic_layout(rng, [tile.size for tile in tiles], side)
            affine = draw_affine(rng, self.options, 2 * side, side)
        else:
            layout = [letterbox(own.tile.size, side)]
            affine = draw_affine(rng, self.options, side, side)
        for tile, place in zip(tiles, layout, strict=True):
            canvas.draw(tile, mirrored @ affine @ place)
        return canvas
