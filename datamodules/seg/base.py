"""Base class of the segmentation datamodules: recipe arguments, loaders and facts."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from datamodules.readers import PathReader
from datamodules.sampling.keys import EpochBatchSampler, KeySampler, images_to_keep
from datamodules.sampling.resumable import resumable_loader
from datamodules.sampling.run_length import run_epochs
from datamodules.seg.arguments import check_positive, check_ranges
from datamodules.seg.collate import collate_images, start_worker
from datamodules.seg.dataset import ImageChange, ImageSource, ObjectCounts, PairDataset, SegDataset
from datamodules.seg.empty_masks import empty_masks
from datamodules.seg.mosaic import MosaicDataset
from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.seg.open_world import KnownView
from datamodules.seg.training_images import chosen_images, image_repeats
from datamodules.seg.unusable import UnusableData
from datamodules.split_facts import describe_images
from datamodules.transforms.augment import Augmentation
from datamodules.transforms.raw.data import LowLightData
from datamodules.transforms.raw.low_light import LowLightOptions
from datamodules.transforms.scale_jitter import ScaleJitter
from formats.coco.splits import CategorySplit
from formats.coco.store import AnnotationStore
from formats.images import ExifPolicy, ImageOptions
from structures import AnnotationPolicy, CategoryMap, Problem, SegBatch

Ints = npt.NDArray[np.int64]
Split = Literal["train", "val", "test", "predict"]


class SegDataModule(PathReader, LowLightData, ABC):
    """Base of the segmentation datamodules; all yield ``SegBatch``.

    Every image goes through the same steps: augment (training only), resize, pad to the largest
    image of the batch. A subclass provides the images through ``source``, and the facts.

    Args:
        batch_size: images per training step on one process.
        eval_batch_size: images per evaluation batch.
        num_workers: worker processes that prepare batches; samples do not depend on their number.
        seed: seeds the order, sizes and augmentation of training images.
        train_short_sides: lengths of the shorter side in pixels, of which one is drawn for every
            training step; None to use ``scale``.
        eval_short_side: length of the shorter side in evaluation; None to use ``scale``.
        max_long_side: largest length of the longer side after resizing in pixels, or None.
        scale: factor by which images are resized if no short side is given.
        augmentations: albumentations transforms by name with their arguments, in order, applied to
            training images before they are resized: ``{name: HorizontalFlip, p: 0.5}``.
        group_by_aspect: put portrait and landscape images into different training batches, which
            saves padding.
        mask_stride: pixels per cell of the masks in a batch.
        size_multiple: padded sides are rounded up to a multiple of this.
        filter_empty: leave images without a (non-crowd) instance out of training.
        repeat_threshold: share of the training images, such as 0.001, below which a class is rare;
            images with a rare class are repeated within an epoch (`datamodules.sampling.repeats`).
            None for no repetition.
        mosaic: compose each training sample of several images, see ``MosaicOptions``; None for
            one image per sample. ``train_short_sides`` are then the sides of the square sample
            (multi-scale training), and ``scale`` and ``max_long_side`` apply to evaluation only.
        scale_jitter: give training images a random size and cut or pad them to a square, see
            ``ScaleJitter``; None for the sizes above, which evaluation always has.
        bad_data: how faulty images and annotations are handled. ``error``: the problems of all
            splits are reported together before anything runs; ``skip``: they are left out and
            counted; ``repair``: polygons are clipped to the image, parts that are no polygons
            dropped and boxes computed again; the rest is left out, and both are counted.
        exif: whether EXIF orientations turn images, see `ImageOptions`; null: what the size that a
            COCO file states shows, and always where no size is stated.
        max_megapixels: larger images are refused; null: a twelfth of memory, 3 bytes a pixel.
        low_light: turn images into those of very dark scenes, see ``LowLightOptions``; None: no.

    Attributes:
        category_map: maps labels to the ids and names of the data set; set by the subclass.
        class_agnostic: whether all categories that are learnt are merged into one class.
        problems: problems of the images and annotations that were left out or repaired.
        notes: what is left out although it is no fault.
        image_change: what is done to each image that is evaluated, as it was read; or None.

    Raises:
        ValueError: a size, factor or count is not positive.
    """

    category_map: CategoryMap
    class_agnostic = False
    image_change: ImageChange | None = None

    def __init__(
        self,
        *,
        batch_size: int = 2,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        train_short_sides: Sequence[int] | None = None,
        eval_short_side: int | None = None,
        max_long_side: int | None = None,
        scale: float = 1.0,
        augmentations: Sequence[Mapping[str, Any]] | None = None,
        group_by_aspect: bool = False,
        mask_stride: int = 1,
        size_multiple: int = 32,
        filter_empty: bool = False,
        repeat_threshold: float | None = None,
        mosaic: MosaicOptions | None = None,
        scale_jitter: ScaleJitter | None = None,
        bad_data: AnnotationPolicy = "error",
        exif: ExifPolicy | None = None,
        max_megapixels: float | None = None,
        low_light: LowLightOptions | None = None,
    ) -> None:
        super().__init__(low_light)
        check_positive(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            eval_short_side=eval_short_side,
            max_long_side=max_long_side,
            scale=scale,
            mask_stride=mask_stride,
            size_multiple=size_multiple,
            train_short_sides=min(train_short_sides or [1]),
        )
        check_ranges(scale, repeat_threshold, num_workers=num_workers, seed=seed)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.seed = num_workers, seed
        self.train_short_sides = list(train_short_sides) if train_short_sides else None
        self.eval_short_side = eval_short_side
        self.max_long_side, self.scale = max_long_side, scale
        self.augmentations = [dict(spec) for spec in augmentations or []]
        self.group_by_aspect = group_by_aspect
        self.mask_stride, self.size_multiple = mask_stride, size_multiple
        self.filter_empty, self.repeat_threshold = filter_empty, repeat_threshold
        self.mosaic, self.scale_jitter = mosaic, scale_jitter
        if mosaic is not None:
            mosaic.check_side(max(train_short_sides or [mosaic.size]))
        if scale_jitter is not None and (mosaic or train_short_sides):
            raise ValueError("scale_jitter takes the place of mosaic and train_short_sides")
        self.bad_data: AnnotationPolicy = bad_data
        self.image_options = ImageOptions(exif, max_megapixels)
        self.problems: tuple[Problem, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._view: KnownView | None = None  # set by subclasses that take `known`
        self._items: Ints | None = None
        self._augmentation: Augmentation | None = None
        self._objects: tuple[Ints, Ints] | None = None
        self._repeats: list[float] | None = None

    def _note_empty_masks(self, file: Path, split: str, store: AnnotationStore) -> None:
        """Note masks without a pixel; raise an error where a split has no other."""
        problem, note = empty_masks(file, split, store)
        if problem is not None:
            raise UnusableData([problem], self)
        if note:
            self._note(note)

    def _note(self, text: str) -> None:
        self.notes += (text,)
        rank_zero_info(text)

    @property
    def num_classes(self) -> int:
        """Number of foreground classes."""
        return len(self.category_map)

    @property
    def class_names(self) -> list[str]:
        """Name of each class, indexed by label."""
        return list(self.category_map.names)

    @property
    def known_split(self) -> CategorySplit | None:
        """Known and novel categories of open-world data; None where all are known."""
        return None if self._view is None else self._view.split

    def train_objects(self) -> tuple[Ints, Ints]:
        """Return images and labels, (M,) each, of the training instances that can be learnt."""
        if self._objects is None:
            self._objects = self.source("train").objects()
        return self._objects

    @abstractmethod
    def source(self, split: Split) -> ImageSource:
        """Return the images of a split.

        Raises:
            ValueError: the data set has no such split.
        """

    @abstractmethod
    def ground_truth(self, split: Split) -> dict[str, Any]:
        """Return the ground truth as a COCO dictionary with the ids of the data set.

        Masks are COCO RLE with text ``counts`` in the frame of the original images; the
        categories are those of ``category_map``, or with a ``known_split`` all of the data set.

        Raises:
            ValueError: the data set has no such split or no annotations for it.
        """

    def labelled_truth(self, split: Split) -> dict[str, Any]:
        """Return the part of the ground truth that ``category_map`` names: the known objects."""
        return self.ground_truth(split)

    def set_ground_truth(self, truth: Mapping[str, Any]) -> None:
        """Set the content of the test annotations, which the caller has read and checked.

        A datamodule whose `section_for` accepts an annotation file overrides this method, so that
        the file is not read twice. By default the content is ignored and the file is read again.

        Args:
            truth: COCO dictionary with the ids of the data set.
        """
        del truth

    @abstractmethod
    def image_records(self, split: Split) -> list[dict[str, Any]]:
        """Return ``id``, ``file_name``, ``height``, ``width`` of every image, in order.

        If the image is a file, the record also has its absolute ``path``.
        """

    def check(self, thorough: bool = False) -> list[Problem]:
        """Read the files of every split again and return all their problems.

        Generated data have no problems.

        Args:
            thorough: also decode every image, regardless of their number.
        """
        del thorough
        return []

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the counts of each split, split -> name -> count, without missing splits."""
        splits: tuple[Split, ...] = ("train", "val", "test")
        return {
            split: {"pictures": len(self.source(split)), "categories": self.num_classes}
            for split in splits
        }

    def object_counts(self, split: Split) -> ObjectCounts | None:
        """Return the numbers of objects; None if the split is missing or they are unknown."""
        del split
        return None

    def describe(self, split: Split) -> str:
        """Return the numbers of images and objects of a split; empty if nothing is known of it."""
        return describe_images(self, split)

    def evaluation_arguments(self) -> dict[str, Any]:
        """Return the arguments that make another datamodule prepare images as this one."""
        names = ("eval_batch_size", "eval_short_side", "max_long_side", "scale")
        sizes = {n: getattr(self, n) for n in (*names, "mask_stride", "size_multiple")}
        reading = dataclasses.asdict(self.image_options)
        given = {name: value for name, value in reading.items() if value is not None}
        return sizes | given | self.low_light_arguments()

    def category_arguments(self) -> dict[str, Any]:
        """Return the arguments besides the map that define the labels of COCO categories."""
        merged = {"categories": None, "class_agnostic": self.class_agnostic}
        return merged if self._view is None else merged | {"known": self._view.split.content()}

    def setup(self, stage: str) -> None:
        """Build the augmentation early, so that a wrong name stops the run; choose the images."""
        if stage == "fit":
            self._training_augmentation()
            self._training_items()

    def _training_augmentation(self) -> Augmentation | None:
        if self.augmentations and self._augmentation is None:
            self._augmentation = Augmentation(self.augmentations)
        return self._augmentation

    def train_dataset(self) -> SegDataset | MosaicDataset | PairDataset:
        """Return the data set of augmented training images; the keys contain the sizes."""
        if self.mosaic is not None:
            return MosaicDataset(
                self.source("train"),
                self.mosaic,
                seed=self.seed,
                close_from=self._close_from(self.mosaic),
                largest=max(self.train_short_sides or [self.mosaic.size]),
                augmentation=self._training_augmentation(),
                mask_stride=self.mask_stride,
                kept=images_to_keep(self.mosaic.window, self.batch_size, self.num_workers),
            )
        return SegDataset(
            self.source("train"),
            augmentation=self._training_augmentation(),
            seed=self.seed,
            scale=self.scale,
            max_long_side=self.max_long_side,
            mask_stride=self.mask_stride,
            scale_jitter=self.scale_jitter,
        )

    def _close_from(self, mosaic: MosaicOptions) -> int | None:
        """Return the epoch from which samples are single images; None if the run is unlimited.

        A trial run (``fast_dev_run``) uses mosaics.
        """
        trainer = self.trainer
        trial = trainer is not None and trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer is None or trial or mosaic.close_epochs == 0:
            return None
        epochs = run_epochs(trainer, len(self.train_sampler()))
        if epochs is not None and epochs <= mosaic.close_epochs:
            rank_zero_warn(
                f"mosaic.close_epochs is {mosaic.close_epochs}, but the run has {epochs} epochs: "
                "no sample is composed of several images"
            )
        return None if epochs is None else max(0, epochs - mosaic.close_epochs)

    def eval_dataset(self, split: Split) -> SegDataset:
        """Return the data set of a split for evaluation."""
        return SegDataset(
            self.source(split),
            short_side=self.eval_short_side,
            scale=self.scale,
            max_long_side=self.max_long_side,
            mask_stride=self.mask_stride,
            change=self.image_change,
        )

    def _training_items(self) -> Ints:
        if self._items is None:
            source, is_open = self.source("train"), self._view is not None
            self._items = chosen_images(source, self.filter_empty, is_open)
        return self._items

    def train_sampler(self) -> EpochBatchSampler:
        """Return the batch sampler of training."""
        items = self._training_items()
        sizes = self.source("train").sizes()[items] if self.group_by_aspect else None
        if self.repeat_threshold is not None and self._repeats is None:
            objects, names = self.train_objects(), self.class_names
            self._repeats = image_repeats(objects, items, names, self.repeat_threshold)
        return EpochBatchSampler(
            items.tolist(),
            self.batch_size,
            shuffle=True,
            seed=self.seed,
            drop_last=True,
            groups=None if sizes is None else (sizes[:, 1] >= sizes[:, 0]).astype(int).tolist(),
            short_sides=self.train_short_sides,
            window=0 if self.mosaic is None else self.mosaic.window,
            repeats=self._repeats,
        )

    def train_dataloader(self) -> DataLoader[SegBatch]:
        """Return shuffled, augmented batches."""
        batches, data = self.train_sampler(), self.train_dataset()
        square = 0 if self.scale_jitter is None else self.scale_jitter.size
        return self._loader(data, resumable_loader, square, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader[SegBatch]:
        """Return the validation images in order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[SegBatch]:
        """Return the test images in order."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[SegBatch]:
        """Return the images to predict in order."""
        dataset = self.eval_dataset("predict")
        batches = EpochBatchSampler(range(len(dataset)), self.eval_batch_size)
        return self._loader(dataset, batch_size=self.eval_batch_size, sampler=KeySampler(batches))

    def _evaluation_loader(self, split: Split) -> DataLoader[SegBatch]:
        dataset = self.eval_dataset(split)
        batches = EpochBatchSampler(range(len(dataset)), self.eval_batch_size)
        return self._loader(dataset, batch_sampler=batches)

    def _loader(
        self, dataset: Dataset[SegBatch], make: Any = DataLoader, square: int = 0, **batches: Any
    ) -> DataLoader[SegBatch]:
        multiple = square or self.size_multiple
        loader: DataLoader[SegBatch] = make(
            dataset,
            num_workers=self.num_workers,
            collate_fn=functools.partial(collate_images, size_multiple=multiple),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=start_worker,
            **batches,
        )
        return loader
