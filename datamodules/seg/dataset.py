"""Data set of one-image batches: augments, resizes and reads the boxes from the masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from datamodules.sampling.keys import SampleKey, keyed_generator
from datamodules.transforms.augment import Augmentation
from datamodules.transforms.label_maps import LabelMaps, Targets
from datamodules.transforms.resize import resize_image, resize_maps, target_size
from datamodules.transforms.scale_jitter import ScaleJitter, jitter
from formats.coco.image_labels import ImageLabels
from structures import ImageId, SegBatch
from structures.seg_batch import IMAGE_LABELS

AUGMENT_PURPOSE = 3
_JITTER_PURPOSE = 12


class AnnotatedImage(NamedTuple):
    """An image with its annotations as read from the source.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        maps: masks of the K instances.
        labels: (K,) int64, 0-based foreground classes.
        crowd: (K,) bool.
        image_id: id of the image in the data set.
        name: name of the image in error messages.
        image_labels: labels that hold for the whole image, or None.
    """

    image: npt.NDArray[np.uint8]
    maps: LabelMaps
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    image_id: ImageId
    name: str
    image_labels: ImageLabels | None = None


ImageChange = Callable[[AnnotatedImage], AnnotatedImage]


class ObjectCounts(NamedTuple):
    """Numbers of objects that are not crowds.

    Attributes:
        by_image: (n,) int64, of each image.
        by_class: (C,) int64, of each class.
    """

    by_image: npt.NDArray[np.int64]
    by_class: npt.NDArray[np.int64]


class ImageSource(Protocol):
    """A split of a data set; an index always refers to the same image."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def read(self, index: int) -> AnnotatedImage:
        """Return one image, which is the same in every process."""
        ...

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return the (n, 2) heights and widths of the images without reading pixels."""
        ...

    def counts(self) -> npt.NDArray[np.int64]:
        """Return the (n,) number of non-crowd instances in each image."""
        ...

    def objects(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (M,) images and (M,) labels of the instances that can be learnt.

        These are all except crowds and instances without a pixel.
        """
        ...


@dataclass(frozen=True)
class SegDataset(Dataset[SegBatch]):
    """Data set of images, indexed by the keys of a sampler.

    Attributes:
        source: the images.
        augmentation: augmentation applied to images before they are resized, or None.
        seed: seeds the augmentation together with the key's epoch and index.
        short_side: length of the shorter side unless the key has one; None to use ``scale``.
        scale: factor by which images are resized if there is no short side.
        max_long_side: largest length of the longer side, or None.
        mask_stride: pixels per cell of the masks.
        scale_jitter: options of a random size and part, in place of the sizes above; or None.
        change: what is done to an image as it was read, before all else; or None.
    """

    source: ImageSource
    augmentation: Augmentation | None = None
    seed: int = 0
    short_side: int | None = None
    scale: float = 1.0
    max_long_side: int | None = None
    mask_stride: int = 1
    scale_jitter: ScaleJitter | None = None
    change: ImageChange | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> SegBatch:
        """Return a batch with the single image ``key.index``.

        Instances that have no pixel left are dropped with their labels.

        Raises:
            ValueError: an augmentation cannot handle the image; the message names it.
        """
        annotated = self.source.read(key.index)
        if self.change is not None:
            annotated = self.change(annotated)
        original = (annotated.image.shape[0], annotated.image.shape[1])
        image, maps = annotated.image, annotated.maps
        if self.augmentation is not None:
            rng = keyed_generator(AUGMENT_PURPOSE, self.seed, *key.draw)
            image, maps = augment_named(self.augmentation, image, maps, rng, annotated.name)
        image, maps = self._resize(key, image, maps)
        targets = maps.targets(self.mask_stride)
        sample = Sample(
            image,
            targets,
            annotated.labels[targets.keep],
            annotated.crowd[targets.keep],
            number=key.index,
            original_size=original,
            image_id=annotated.image_id,
            image_labels=annotated.image_labels,
        )
        return pack_samples([sample], self.mask_stride)

    def _resize(
        self, key: SampleKey, image: npt.NDArray[np.uint8], maps: LabelMaps
    ) -> tuple[npt.NDArray[np.uint8], LabelMaps]:
        if self.scale_jitter is not None:
            rng = keyed_generator(_JITTER_PURPOSE, self.seed, *key.draw)
            return jitter(image, maps, self.scale_jitter.draw(rng, maps.size))
        short_side = self.short_side if key.size is None else key.size
        size = target_size(maps.size, short_side, self.scale, self.max_long_side)
        return resize_image(image, size), resize_maps(maps, size)


@dataclass(frozen=True)
class PairDataset(Dataset[SegBatch]):
    """Data set of dark samples that have the same samples of clean images as a second view.

    Both views are prepared from the same key by data sets that differ in their images alone. A
    sample depends on its key, the sizes and the annotations, so both views are augmented, composed
    and resized in the same way; changes of colour have the same factors (A497).

    Attributes:
        dark: the samples.
        clean: the samples of the other images, of the same sizes and with the same annotations.
    """

    dark: Dataset[SegBatch]
    clean: Dataset[SegBatch]

    def __len__(self) -> int:
        return len(self.dark)  # type: ignore[arg-type]

    def __getitem__(self, key: SampleKey) -> SegBatch:
        """Return the sample of one key."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[SegBatch]:
        """Return the samples of a batch, which the data sets may have packed."""
        views = zip(_samples(self.dark, keys), _samples(self.clean, keys), strict=True)
        return [dataclasses.replace(dark, clean_images=clean.images) for dark, clean in views]


def _samples(dataset: Dataset[SegBatch], keys: Sequence[SampleKey]) -> list[SegBatch]:
    several: Any = getattr(dataset, "__getitems__", None)
    found: list[SegBatch] = [dataset[key] for key in keys] if several is None else several(keys)
    return found


def augment_named(
    augmentation: Augmentation,
    image: npt.NDArray[np.uint8],
    maps: LabelMaps,
    rng: np.random.Generator,
    name: str,
) -> tuple[npt.NDArray[np.uint8], LabelMaps]:
    """Augment an image and its masks.

    Raises:
        ValueError: the augmentation cannot handle the image; the message names it and its size.
    """
    try:
        return augmentation(image, maps, rng)
    except ValueError as error:
        height, width = image.shape[:2]
        raise ValueError(f"{name}, {height} px high and {width} px wide: {error}") from error


class Sample(NamedTuple):
    """A processed image with its n instances, without padding.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        targets: boxes and masks.
        labels: (n,) int64.
        crowd: (n,) bool.
        number: index of the image in its data set.
        original_size: (height, width) of the frame in which predictions are returned.
        image_id: id of the image in the data set.
        image_labels: labels that hold for the whole image, or None.
    """

    image: npt.NDArray[np.uint8]
    targets: Targets
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    number: int
    original_size: tuple[int, int]
    image_id: ImageId
    image_labels: ImageLabels | None = None


def pack_samples(samples: Sequence[Sample], mask_stride: int) -> SegBatch:
    """Return a batch of samples of equal size, without padding.

    Args:
        samples: at least one.
        mask_stride: pixels per cell of the masks.
    """
    import cv2

    height, width = samples[0].image.shape[:2]
    # numpy, unlike torch, requests large memory pages, and page faults dominate the time here
    images = np.empty((len(samples), 3, height, width), dtype=np.float32)
    for rows, sample in zip(images, samples, strict=True):
        for out, channel in zip(rows, cv2.split(sample.image), strict=True):
            np.divide(channel, np.float32(255), out=out)
    return SegBatch(
        images=torch.from_numpy(images),
        sizes=torch.tensor([[height, width]] * len(samples)),
        boxes=torch.from_numpy(np.concatenate([s.targets.boxes for s in samples])),
        labels=torch.from_numpy(np.concatenate([s.labels for s in samples])),
        masks=torch.from_numpy(np.concatenate([s.targets.masks for s in samples])),
        counts=torch.tensor([len(s.labels) for s in samples]),
        crowd=torch.from_numpy(np.concatenate([s.crowd for s in samples])),
        index=torch.tensor([s.number for s in samples]),
        original_sizes=torch.tensor([s.original_size for s in samples]),
        image_ids=tuple(s.image_id for s in samples),
        mask_stride=mask_stride,
        **_image_labels([s.image_labels for s in samples]),
    )


def _image_labels(given: Sequence[ImageLabels | None]) -> dict[str, torch.Tensor]:
    labels = [one for one in given if one is not None]
    if not labels:
        return {}
    return {n: torch.from_numpy(np.stack([getattr(x, n) for x in labels])) for n in IMAGE_LABELS}
