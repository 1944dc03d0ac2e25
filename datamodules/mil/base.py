"""Base class of the multiple-instance datamodules: recipe arguments, loaders and facts."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.mil.chunks import BagSource, ChunkedBags
from datamodules.mil.folds import classes_in
from datamodules.mil.overlap.members import Members
from datamodules.mil.samplers import BatchPlan, DrawName
from datamodules.mil.splits import NAMES, BagSplit, write_splits
from datamodules.mil.targets.facts import (
    label_columns_of,
    label_fields,
    target_counts,
    target_text,
)
from datamodules.mil.targets.strata import stratum_labels
from datamodules.readers import PathReader, arguments_of
from datamodules.sampling.keys import EpochBatchSampler, KeySampler, SampleKey
from datamodules.sampling.resumable import resumable_loader
from datamodules.split_facts import class_counts
from structures import BadDataPolicy, BagBatch, MILTask, Problem
from structures.tasks import has_classes

IntArray = npt.NDArray[np.int64]
BagChange = Callable[[BagBatch], BagBatch]

_log = logging.getLogger(__name__)


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


class ChangedBags(Dataset[BagBatch]):
    """The bags of a data set, each changed after it was read.

    Args:
        bags: the data set.
        change: returns another bag, and leaves that which it gets as it is.
    """

    def __init__(self, bags: Dataset[BagBatch], change: BagChange) -> None:
        self._bags, self._change = bags, change

    def __getitem__(self, key: SampleKey) -> BagBatch:
        return self._change(self._bags[key])


class MILDataModule(PathReader, pl.LightningDataModule, ABC):
    """Base of the multiple-instance datamodules; all yield ``BagBatch``.

    A subclass provides the bags of a split through ``source`` and ``numbers``, and the facts.

    Args:
        batch_size: bags per training step on one process.
        eval_batch_size: bags per evaluation batch.
        num_workers: worker processes that read bags; the bags do not depend on their number.
        seed: seeds the order of the training bags.
        sampler: ``shuffle``: every training bag once per epoch; ``class_balanced``: equally many
            bags of every class in an epoch; ``balanced_batches``: equally many bags of every class
            in each batch, at least two; ``weighted``: with replacement, by class_weights times the
            ``weight`` column of a table.
        class_weights: weight of each class, for ``weighted``.
        chunk_instances: training batches have ``batch_size`` chunks of at most this many instances
            instead of whole bags, so that every instance is used once per epoch whatever the size
            of its bag, see `datamodules.mil.chunks`. For models of instances, such as INS; null for
            whole bags.
        bad_data: how faulty bags are handled. ``error``: all of them are reported together before
            anything runs; ``skip``: they are left out and counted.

    Attributes:
        num_classes: number of classes, including the negative class of a binary task; 1 for
            ``cox``, the bins of ``discrete_time``, or the values of ``regression``.
        in_features: number of features per instance.
        task: kind of the labels.
        class_names: name of each class, indexed by label; empty for times and values.
        target_names: name of each value of ``regression``; else empty.
        problems: problems of the bags that ``skip`` has left out.
        extraction: how the features of slides were extracted, see `formats.extraction`, or None.
        slide_folder: folder of the slide files, where it is known.
        bag_change: what is done to each test bag, or bag to predict, as it was read; or None.

    Raises:
        ValueError: a size is not positive, or a number is negative.
    """

    num_classes: int
    in_features: int
    task: MILTask
    class_names: list[str]
    target_names: Sequence[str] = ()
    extraction: dict[str, Any] | None = None
    slide_folder: Path | None = None
    bag_change: BagChange | None = None

    def __init__(
        self,
        *,
        batch_size: int = 1,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        sampler: DrawName = "shuffle",
        class_weights: Sequence[float] | None = None,
        chunk_instances: int | None = None,
        bad_data: BadDataPolicy = "error",
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
        weights = None if class_weights is None else tuple(class_weights)
        self.plan = BatchPlan(batch_size, sampler, weights, chunk_instances=chunk_instances)
        self.bad_data: BadDataPolicy = bad_data
        self.problems: tuple[Problem, ...] = ()

    @abstractmethod
    def source(self, split: BagSplit) -> BagSource:
        """Return the bags to which the ``numbers`` of the split refer."""

    @abstractmethod
    def numbers(self, split: BagSplit) -> Sequence[int]:
        """Return the numbers of the bags of a split, in order; empty if the split has none."""

    @abstractmethod
    def evaluation_arguments(self) -> dict[str, Any]:
        """Return the arguments that make `TabularBagsDataModule` prepare bags as this class does.

        Plain numbers and lists, because they travel in the checkpoint.
        """

    @classmethod
    def arguments_like(cls, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the arguments that make this class prepare bags as for a checkpoint's training.

        Args:
            record: the checkpoint's ``segmil`` record.

        Returns:
            The arguments that this class accepts; None for a checkpoint not trained on bags.
        """
        facts = record["facts"]
        if "class_names" not in facts:
            return None
        classes = {"class_names": list(facts["class_names"]) or None}
        known = facts["preprocessing"] | classes | {"task": record["blueprint"]["links"]["task"]}
        accepted = arguments_of(cls)
        return {name: value for name, value in known.items() if name in accepted}

    def check(self, thorough: bool = False) -> list[Problem]:
        """Return the problems of the bags; generated data have none.

        Args:
            thorough: also read the values of all features, not only the headers of the files.
        """
        del thorough
        return list(self.problems)

    def contents(self, split: BagSplit) -> tuple[npt.NDArray[Any], IntArray, tuple[str, ...]]:
        """Return labels, instance counts (b,) and patients (may be empty) of a split.

        Labels are (b,) classes or grades, (b, C) zeros and ones for a multilabel task, or float64
        (b, 2) times and events or (b, T) values, in the units of the data.
        """
        bags = [self.source(split).bag(number) for number in self.numbers(split)]
        labels: npt.NDArray[Any] = np.zeros(0, dtype=np.int64)
        if bags:
            labels = np.concatenate([bag.labels.numpy() for bag in bags])
        sizes = np.array([int(bag.offsets[-1]) for bag in bags], dtype=np.int64)
        return labels, sizes, tuple(name for bag in bags for name in bag.groups)

    def members(self, split: BagSplit) -> Members:
        """Return patients and bags of a split; none of generated data."""
        del split
        return Members()

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the counts of each split, split -> name -> count; empty splits are left out."""
        result: dict[str, dict[str, int]] = {}
        for split in NAMES:
            labels, sizes, patients = self.contents(split)
            if labels.size:
                result[split] = {
                    "bags": len(labels),
                    "instances": int(sizes.sum()),
                    "features": self.in_features,
                }
                if has_classes(self.task):
                    result[split]["classes"] = len(classes_in(labels))
                else:
                    result[split] |= target_counts(labels, self.task)
                if patients:
                    result[split]["patients"] = len(set(patients))
        return result

    def describe(self, split: BagSplit) -> str:
        """Return the numbers of bags, patients, instances and bags of each class of a split.

        Empty if the split has no bags.
        """
        labels, sizes, patients = self.contents(split)
        if not labels.size:
            return ""
        total = f"{len(labels)} bags, "
        total += f"{len(set(patients))} patients, " if patients else ""
        total += f"{sizes.sum()} instances; "
        if not has_classes(self.task):
            return total + target_text(labels, self.task, self.target_names)
        several = labels.ndim == 2
        members = labels == 1 if several else labels[:, None] == np.arange(self.num_classes)
        text = total + class_counts(self.class_names, members.sum(axis=0))
        return text + f", none of them {(~members.any(axis=1)).sum()}" * several

    def setup(self, stage: str) -> None:
        """Record the splits of a training run as ``splits.csv`` in its folder."""
        trainer = self.trainer
        if stage != "fit" or trainer is None or not trainer.loggers:
            return
        folder = trainer.log_dir  # a broadcast, so every process must call it
        if folder is not None:
            self._record_splits(Path(folder) / "splits.csv")

    @rank_zero_only  # type: ignore[misc]
    def _record_splits(self, path: Path) -> None:
        _log.info("%s, sha256 %s", path, self.write_splits(path))

    def write_splits(self, path: Path) -> str:
        """Write the split of each bag to a CSV file, see `datamodules.mil.splits.write_splits`.

        Returns:
            The file's SHA-256.
        """
        columns = label_columns_of(self.task, self.target_names)
        return write_splits(path, list(self._split_rows()), "bag_id", columns)

    def _split_rows(self) -> Iterator[tuple[int | str, ...]]:
        for split in NAMES:
            for number in self.numbers(split):
                bag = self.source(split).bag(number)
                name = bag.bag_ids[0] if bag.bag_ids else str(number)
                label = bag.labels[0]
                known = has_classes(self.task)
                fields = (_label(label),) if known else label_fields(label.numpy())
                yield name, bag.groups[0] if bag.groups else name, *fields, split

    def dataset(self, split: BagSplit) -> Dataset[BagBatch]:
        """Return the data set of a split, indexed by the keys of a sampler."""
        chunk = self.plan.chunk_instances
        if chunk is not None and split == "train":
            return ChunkedBags(self.source(split), chunk, self.seed)
        return BagDataset(self.source(split))

    def training_batches(self) -> Sampler[list[SampleKey]]:
        """Return the batch sampler of training."""
        numbers = self.numbers("train")
        # Whole bags in any order need neither labels nor sizes.
        if self.plan.sampler == "shuffle" and self.plan.chunk_instances is None:
            return EpochBatchSampler(
                numbers, self.batch_size, shuffle=True, seed=self.seed, drop_last=True
            )
        labels, sizes, patients = self.contents("train")
        kinds = stratum_labels(labels, self.task, patients)
        return self.plan.build(
            numbers, _scattered(numbers, kinds), _scattered(numbers, sizes), None, self.seed
        )

    def train_dataloader(self) -> DataLoader[BagBatch]:
        """Return shuffled batches."""
        if not self.numbers("train"):
            raise ValueError(
                "there are no training bags; without labels, bags can only be predicted"
            )
        return self._loader("train", batch_sampler=self.training_batches())

    def val_dataloader(self) -> DataLoader[BagBatch] | list[DataLoader[BagBatch]]:
        """Return the validation bags in order; an empty list if no bags are held out."""
        if not self.numbers("val"):
            return []
        return self._loader("val", batch_sampler=self._evaluation_batches("val"))

    def test_dataloader(self) -> DataLoader[BagBatch]:
        """Return the test bags in order."""
        return self._loader("test", batch_sampler=self._evaluation_batches("test"))

    def predict_dataloader(self) -> DataLoader[BagBatch]:
        """Return the bags to predict in order."""
        keys = KeySampler(self._evaluation_batches("predict"))
        return self._loader("predict", batch_size=self.eval_batch_size, sampler=keys)

    def _evaluation_batches(self, split: BagSplit) -> EpochBatchSampler:
        numbers = self.numbers(split)
        if not numbers:
            raise ValueError(
                f"the data have no {split} bags; name a fold or raise the share held out"
            )
        return EpochBatchSampler(numbers, self.eval_batch_size)

    def _loader(self, split: BagSplit, **batches: Any) -> DataLoader[BagBatch]:
        make: Any = resumable_loader if split == "train" else DataLoader
        bags = self.dataset(split)
        if self.bag_change is not None and split in ("test", "predict"):
            bags = ChangedBags(bags, self.bag_change)
        loader: DataLoader[BagBatch] = make(
            bags,
            num_workers=self.num_workers,
            collate_fn=BagBatch.collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            **batches,
        )
        return loader


def _label(label: Tensor) -> int | str:
    """Return a class, or the classes of a bag with several: ``0;2``, ``;`` for none."""
    if label.ndim == 0:
        return int(label)
    return ";".join(map(str, torch.nonzero(label == 1).flatten().tolist())) or ";"


def _scattered(numbers: Sequence[int], values: IntArray) -> IntArray:
    """Return an array with the values at the positions ``numbers``."""
    placed = np.zeros((max(numbers) + 1, *values.shape[1:]), dtype=np.int64)
    placed[np.asarray(numbers)] = values
    return placed


def select_bags(bags: BagBatch, positions: Tensor) -> BagBatch:
    """Return the bags at ``positions`` in that order, with a single gather and without names.

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
