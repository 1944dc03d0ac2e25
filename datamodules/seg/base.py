"""What all segmentation data have in common: recipe arguments, loaders, facts."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.readers import PathReader
from datamodules.sampling.keys import EpochBatchSampler, KeySampler, images_to_keep
from datamodules.sampling.resumable import resumable_loader
from datamodules.seg.collate import collate_images
from datamodules.seg.dataset import ImageSource, SegDataset
from datamodules.seg.mosaic import MosaicDataset
from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.transforms.augment import Augmentation
from structures import BadDataPolicy, CategoryMap, DataProblems, Problem, SegBatch

Split = Literal["train", "val", "test", "predict"]

LARGEST_SCALE = 16.0  # that of `models.seg.inference.predict` (A256)


class UnusableData(DataProblems):
    """Raised by the constructor of a datamodule whose files cannot be used at all.

    Args:
        problems: what the constructor found.
        datamodule: it cannot train, but its ``check`` and ``summary`` work.
    """

    def __init__(self, problems: Sequence[Problem], datamodule: SegDataModule) -> None:
        super().__init__(problems)
        self.datamodule = datamodule


def _start_worker(worker_id: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # workers share the cores already


def run_epochs(trainer: pl.Trainer, batches: int) -> int | None:
    """Return how many epochs a run has, begun ones included; None where neither limit is set.

    Args:
        trainer: its ``max_epochs`` and ``max_steps`` (optimizer steps) are read.
        batches: of an epoch on one process.
    """
    limits = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(trainer.max_epochs)
    if trainer.max_steps >= 0:
        limit = trainer.limit_train_batches
        used = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
        steps = max(1, -(-used // trainer.accumulate_grad_batches))
        limits.append(-(-trainer.max_steps // steps))
    return min(limits, default=None)


class SegDataModule(pl.LightningDataModule, PathReader, ABC):
    """Base of the segmentation datamodules; all yield ``SegBatch``.

    Every image goes through the same steps: augment (training only), resize, pad to the largest
    of the batch. A subclass provides images through ``source`` and the facts.

    Args:
        batch_size: images of a training step on one process.
        eval_batch_size: images of an evaluation batch.
        num_workers: processes that prepare batches; samples do not depend on it.
        seed: seeds order, sizes and augmentation of training.
        train_short_sides: lengths of the shorter side in pixels, one drawn for every training
            step; None to use ``scale``.
        eval_short_side: length of the shorter side in evaluation; None to use ``scale``.
        max_long_side: cap in pixels on the longer side after resizing, or None.
        scale: factor on the size of the image where no short side is given.
        augmentations: albumentations transforms by name with their arguments, in order, applied to
            training images before they are resized: ``{name: HorizontalFlip, p: 0.5}``.
        group_by_aspect: upright and wide images go into different training batches, which
            saves padding.
        mask_stride: pixels per cell of the masks in a batch.
        size_multiple: padded sides are rounded up to a multiple of this.
        filter_empty: leave images without a (non-crowd) instance out of training.
        mosaic: training samples are squares made of several images, see ``MosaicOptions``; None
            for one image each. ``train_short_sides`` are then sides of the square (training at
            several scales), and ``scale`` and ``max_long_side`` matter in evaluation only.
        bad_data: what becomes of faulty images and annotations. ``error``: all of them, of all
            splits, are told at once before anything runs; ``skip``: they are left out and counted.

    Attributes:
        category_map: label <-> the data set's id and name; set by the subclass.
        problems: what ``skip`` has left out.

    Raises:
        ValueError: a size, factor or count is not positive.
    """

    category_map: CategoryMap

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
        mosaic: MosaicOptions | None = None,
        bad_data: BadDataPolicy = "error",
    ) -> None:
        super().__init__()
        positive = {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "eval_short_side": eval_short_side,
            "max_long_side": max_long_side,
            "scale": scale,
            "mask_stride": mask_stride,
            "size_multiple": size_multiple,
            "train_short_sides": min(train_short_sides or [1]),
        }
        for name, value in positive.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")
        if scale > LARGEST_SCALE:
            raise ValueError(f"scale is a factor in (0, {LARGEST_SCALE:g}], got {scale:g}")
        for name, value in (("num_workers", num_workers), ("seed", seed)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.train_short_sides = list(train_short_sides) if train_short_sides else None
        self.eval_short_side = eval_short_side
        self.max_long_side = max_long_side
        self.scale = scale
        self.augmentations = [dict(spec) for spec in augmentations or []]
        self.group_by_aspect = group_by_aspect
        self.mask_stride = mask_stride
        self.size_multiple = size_multiple
        self.filter_empty = filter_empty
        self.mosaic = mosaic
        if mosaic is not None:
            mosaic.check_side(max(train_short_sides or [mosaic.size]))
        self.bad_data: BadDataPolicy = bad_data
        self.problems: tuple[Problem, ...] = ()
        self._augmentation: Augmentation | None = None

    @property
    def num_classes(self) -> int:
        """Number of foreground classes."""
        return len(self.category_map)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes by label."""
        return list(self.category_map.names)

    @abstractmethod
    def source(self, split: Split) -> ImageSource:
        """Return the images of a split.

        Raises:
            ValueError: the data set has no such split.
        """

    @abstractmethod
    def ground_truth(self, split: Split) -> dict[str, Any]:
        """Return the truth as a COCO dictionary in the data set's own ids.

        Masks are COCO RLE with text ``counts`` in the frame of the original images; the
        categories are those of ``category_map``.

        Raises:
            ValueError: the data set has no such split or no annotations for it.
        """

    def set_ground_truth(self, truth: Mapping[str, Any]) -> None:
        """Take the content of the test annotations, which the caller has read and checked.

        A datamodule whose `section_for` takes a file of annotations overrides this, so that the
        file is not read twice. The default leaves it to be read again.

        Args:
            truth: COCO dictionary in the data set's own ids.
        """
        del truth

    @abstractmethod
    def image_records(self, split: Split) -> list[dict[str, Any]]:
        """Return ``id``, ``file_name``, ``height``, ``width`` of every image by number.

        ``path`` is there as well, absolute, where the image is a file.
        """

    def check(self, thorough: bool = False) -> list[Problem]:
        """Read the files of every split anew and return all that is wrong with them.

        Data that are generated have no problem.

        Args:
            thorough: also decode every image, however many there are.
        """
        del thorough
        return []

    def summary(self) -> dict[str, dict[str, int]]:
        """Return what is there, split -> name -> count; splits that do not exist are left out."""
        splits: tuple[Split, ...] = ("train", "val", "test")
        return {
            split: {"pictures": len(self.source(split)), "categories": self.num_classes}
            for split in splits
        }

    def evaluation_arguments(self) -> dict[str, Any]:
        """Return the arguments that make another datamodule prepare images as this one does."""
        names = ("eval_batch_size", "eval_short_side", "max_long_side", "scale")
        return {n: getattr(self, n) for n in (*names, "mask_stride", "size_multiple")}

    def category_arguments(self) -> dict[str, Any]:
        """Return what else than the map decides how a COCO file's categories become labels."""
        return {"categories": None, "class_agnostic": False}

    def setup(self, stage: str) -> None:
        """Build the augmentation before anything runs, so that a wrong name stops the run."""
        if stage == "fit":
            self._training_augmentation()

    def _training_augmentation(self) -> Augmentation | None:
        if self.augmentations and self._augmentation is None:
            self._augmentation = Augmentation(self.augmentations)
        return self._augmentation

    def train_dataset(self) -> SegDataset | MosaicDataset:
        """Return the training images with augmentation; sizes come with the keys."""
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
        )

    def _close_from(self, mosaic: MosaicOptions) -> int | None:
        """Return the epoch from which samples are single images; None where the end is open.

        A trial run (``fast_dev_run``) has mosaics.
        """
        trainer = self.trainer
        trial = trainer is not None and trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer is None or trial or mosaic.close_epochs == 0:
            return None
        epochs = run_epochs(trainer, len(self.train_sampler()))
        if epochs is not None and epochs <= mosaic.close_epochs:
            rank_zero_warn(
                f"mosaic.close_epochs is {mosaic.close_epochs}, but the run has {epochs} epochs: "
                "no sample is made of several images"
            )
        return None if epochs is None else max(0, epochs - mosaic.close_epochs)

    def eval_dataset(self, split: Split) -> SegDataset:
        """Return the images of a split as evaluation sees them."""
        return SegDataset(
            self.source(split),
            short_side=self.eval_short_side,
            scale=self.scale,
            max_long_side=self.max_long_side,
            mask_stride=self.mask_stride,
        )

    def train_sampler(self) -> EpochBatchSampler:
        """Return the batches of training; logs how many images ``filter_empty`` leaves out."""
        source = self.source("train")
        items = np.arange(len(source))
        if self.filter_empty:
            items = np.flatnonzero(source.counts() > 0)
            left_out = len(source) - items.size
            rank_zero_info(f"filter_empty leaves out {left_out} of {len(source)} images")
        if items.size == 0:
            raise ValueError(
                "no training image is left: none has an instance that is no crowd; set "
                "filter_empty: false or check the annotations"
            )
        sizes = source.sizes()[items] if self.group_by_aspect else None
        return EpochBatchSampler(
            items.tolist(),
            self.batch_size,
            shuffle=True,
            seed=self.seed,
            drop_last=True,
            groups=None if sizes is None else (sizes[:, 1] >= sizes[:, 0]).astype(int).tolist(),
            short_sides=self.train_short_sides,
            window=0 if self.mosaic is None else self.mosaic.window,
        )

    def train_dataloader(self) -> DataLoader[SegBatch]:
        """Return shuffled, augmented batches."""
        batches = self.train_sampler()
        return self._loader(self.train_dataset(), make=resumable_loader, batch_sampler=batches)

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
        self, dataset: SegDataset | MosaicDataset, make: Any = DataLoader, **batches: Any
    ) -> DataLoader[SegBatch]:
        loader: DataLoader[SegBatch] = make(
            dataset,
            num_workers=self.num_workers,
            collate_fn=functools.partial(collate_images, size_multiple=self.size_multiple),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_start_worker,
            **batches,
        )
        return loader
