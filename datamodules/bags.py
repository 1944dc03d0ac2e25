"""What all multiple-instance data have in common: recipe arguments, loaders, facts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.samplers import EpochBatchSampler, KeySampler, SampleKey
from structures import BagBatch, MILTask

BagSplit = Literal["train", "val", "test", "predict"]


class BagSource(Protocol):
    """Bags by number; what a number means never changes."""

    def __len__(self) -> int:
        """Return the number of bags."""
        ...

    def bag(self, position: int, /) -> BagBatch:
        """Return one bag as a batch."""
        ...


class BagDataset(Dataset[BagBatch]):
    """Serves the bags of a source under the keys of a sampler.

    Args:
        source: where the bags come from.
    """

    def __init__(self, source: BagSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, key: SampleKey) -> BagBatch:
        return self._source.bag(key.index)


class MILDataModule(pl.LightningDataModule, ABC):
    """Base of the multiple-instance datamodules; all yield ``BagBatch``.

    A subclass provides the bags of a split through ``source`` and ``numbers``, and the facts.

    Args:
        batch_size: bags of a training step on one process.
        eval_batch_size: bags of an evaluation batch.
        num_workers: processes that read bags; bags do not depend on it.
        seed: seeds the order of training.

    Attributes:
        num_classes: classes, counting the negative one of a binary task.
        in_features: width of an instance's features.
        task: what the labels mean.
        class_names: names of the classes by label.

    Raises:
        ValueError: a size is not positive, or a number is negative.
    """

    num_classes: int
    in_features: int
    task: MILTask
    class_names: list[str]

    def __init__(
        self,
        *,
        batch_size: int = 1,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        least = {"batch_size": (batch_size, 1), "eval_batch_size": (eval_batch_size, 1)}
        least |= {"num_workers": (num_workers, 0), "seed": (seed, 0)}
        for name, (value, minimum) in least.items():
            if value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {value}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed

    @abstractmethod
    def source(self, split: BagSplit) -> BagSource:
        """Return the bags that ``numbers`` of the split refer to."""

    @abstractmethod
    def numbers(self, split: BagSplit) -> Sequence[int]:
        """Return the numbers of a split's bags, in order; empty if the split has none."""

    @abstractmethod
    def evaluation_arguments(self) -> dict[str, Any]:
        """Return the arguments with which `TabularBagsDataModule` prepares bags as this one does.

        Plain numbers and lists, because they travel in the checkpoint.
        """

    def train_dataloader(self) -> DataLoader[BagBatch]:
        """Return shuffled batches."""
        batches = EpochBatchSampler(
            self.numbers("train"), self.batch_size, shuffle=True, seed=self.seed, drop_last=True
        )
        return self._loader("train", batch_sampler=batches)

    def val_dataloader(self) -> DataLoader[BagBatch] | list[DataLoader[BagBatch]]:
        """Return the validation bags in order; no loader where nothing is held out."""
        if not self.numbers("val"):
            return []
        return self._loader("val", batch_sampler=self._in_order("val"))

    def test_dataloader(self) -> DataLoader[BagBatch]:
        """Return the test bags in order."""
        return self._loader("test", batch_sampler=self._in_order("test"))

    def predict_dataloader(self) -> DataLoader[BagBatch]:
        """Return the bags to predict in order."""
        keys = KeySampler(self._in_order("predict"))
        return self._loader("predict", batch_size=self.eval_batch_size, sampler=keys)

    def _in_order(self, split: BagSplit) -> EpochBatchSampler:
        numbers = self.numbers(split)
        if not numbers:
            raise ValueError(
                f"the data have no {split} bags; name a fold or raise the share held out"
            )
        return EpochBatchSampler(numbers, self.eval_batch_size)

    def _loader(self, split: BagSplit, **batches: Any) -> DataLoader[BagBatch]:
        return DataLoader(
            BagDataset(self.source(split)),
            num_workers=self.num_workers,
            collate_fn=BagBatch.collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            **batches,
        )


def take_bags(bags: BagBatch, positions: Tensor) -> BagBatch:
    """Return the bags at ``positions`` in that order, in one gather and without names.

    Args:
        bags: packed bags.
        positions: (b,) int64, may repeat.
    """
    sizes = bags.sizes()[positions]
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    shift = bags.offsets[positions] - offsets[:-1]
    rows = torch.arange(int(offsets[-1])) + shift.repeat_interleave(sizes)
    known = bags.instance_labels
    return BagBatch(
        features=bags.features[rows],
        offsets=offsets,
        labels=bags.labels[positions],
        index=bags.index[positions],
        instance_labels=None if known is None else known[rows],
    )
