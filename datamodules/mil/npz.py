"""Bags from one npz file, such as the classic multiple-instance sets."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.mil.base import IntArray, MILDataModule
from datamodules.mil.npz_file import BagFile, read_bag_file
from datamodules.mil.splits import BagSplit, SplitOptions, choose_splits
from datamodules.mil.standardisation import Standardisation
from structures import BagBatch, MILTask


class TabularBagsDataModule(MILDataModule):
    """Bags of an npz file (layout: `datamodules.mil.npz_file`), split by fold or by fractions.

    The test bags are one fold of cross-validation, the published one where the file has folds, or
    a stratified share. Validation bags are a stratified share of the others. With patients in the
    file (``groups``) no patient is in two splits. Predicting takes all bags of the file.

    Args:
        file: the npz file.
        fold: number of the test fold; None to hold out ``test_fraction`` instead.
        repeat: which repeat of cross-validation ``fold`` belongs to.
        num_folds: folds to make where the file has none.
        test_fraction: share of the bags to test on where ``fold`` is None.
        val_fraction: share of the bags that are not tested on to validate on; 0 for no validation.
        split_seed: of splits and folds; independent of ``seed``, so that training with another
            seed meets the same data.
        standardise: centre and scale each feature by the training bags.
        clip: largest absolute value of a standardised feature, or None.
        mean: statistics of another run instead of those of the training bags, one a feature.
        std: likewise.
        class_names: the classes by label; null to take them from the labels.
        task: what the labels mean; null for binary with two classes, else multiclass.
        **shared: the arguments of ``MILDataModule``.

    Attributes:
        standardisation: the statistics in use, or None.

    Raises:
        ValueError: the file breaks its layout, a fold or share does not exist, or the given
            statistics do not fit the file.
    """

    path_argument = "file"
    asked_last = True

    def __init__(
        self,
        file: Path,
        fold: int | None = None,
        repeat: int = 0,
        num_folds: int = 10,
        test_fraction: float = 0.2,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        standardise: bool = True,
        clip: float | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        task: MILTask | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        classes = None if class_names is None else len(class_names)
        self._file = read_bag_file(file, classes, self.bad_data)
        self.problems = self._file.problems
        options = SplitOptions(fold, repeat, num_folds, test_fraction, val_fraction, split_seed)
        self._splits = choose_splits(self._file, options)
        self.in_features, self.num_classes = self._file.in_features, self._file.num_classes
        self.task = self._file.task if task is None else task
        if self.task == "multilabel" or (self.task == "binary" and self.num_classes != 2):
            raise ValueError(
                f"{file}: one label a bag of {self.num_classes} classes cannot be the task "
                f"{self.task}; use multiclass, or binary with two classes"
            )
        names = ["negative", "positive"] if self.num_classes == 2 else range(self.num_classes)
        self.class_names = [str(name) for name in class_names or names]
        self.plan.check_classes(self.num_classes)
        self.standardisation = self._statistics(standardise, clip, mean, std)

    @classmethod
    def section_for(
        cls, path: Path, record: Mapping[str, Any], folder: Path | None = None
    ) -> dict[str, Any] | None:
        """Return the section for an npz file; see the base class."""
        del folder
        known = cls.arguments_like(record)
        return None if known is None else cls.section(known | {"file": str(path)})

    def _statistics(
        self,
        standardise: bool,
        clip: float | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> Standardisation | None:
        if clip is not None and not (standardise and clip > 0):
            raise ValueError(f"clip must be positive and needs standardise: true, got {clip}")
        if (mean is None) != (std is None) or (mean is not None and not standardise):
            raise ValueError("give mean and std together and only with standardise: true")
        if not standardise:
            return None
        if mean is not None and std is not None:
            return Standardisation.from_lists(mean, std, clip)
        train = self._file.rows_of(self._splits["train"])
        if not train.any():
            raise ValueError(
                f"{self._file.path}: no training bags to standardise features by; give mean and "
                "std, or standardise: false"
            )
        return Standardisation.fit(self._file.features[train], clip)

    def source(self, split: BagSplit) -> BagBatch:
        """Return all bags of the file, standardised; a bag's number is its place in ``y``."""
        del split
        return self._bags

    def numbers(self, split: BagSplit) -> Sequence[int]:
        """Return the numbers of the split's bags."""
        return np.flatnonzero(self._splits[split]).tolist()

    def contents(self, split: BagSplit) -> tuple[IntArray, IntArray, tuple[str, ...]]:
        """Return labels (b,), instances (b,) and patients, or none, of the bags of a split."""
        chosen, file = self.numbers(split), self._file
        patients = tuple(file.groups[b] for b in chosen) if file.groups else ()
        return file.labels[chosen], file.sizes[chosen], patients

    def evaluation_arguments(self) -> dict[str, Any]:
        """Return batch size, statistics and limit."""
        arguments: dict[str, Any] = {"eval_batch_size": self.eval_batch_size}
        if self.standardisation is None:
            return arguments | {"standardise": False}
        mean, std, limit = self.standardisation
        return arguments | {"mean": mean.tolist(), "std": std.tolist(), "clip": limit}

    @functools.cached_property
    def _bags(self) -> BagBatch:
        return packed(self._file, self.standardisation)


def packed(file: BagFile, standardisation: Standardisation | None) -> BagBatch:
    """Return all bags of a file, standardised where statistics are given.

    Raises:
        ValueError: the statistics are of another number of features.
    """
    features = torch.from_numpy(file.features)
    if standardisation is not None:
        try:
            features = standardisation.apply(file.features)
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from None
    return BagBatch(
        features=features,
        offsets=torch.from_numpy(file.offsets),
        labels=torch.from_numpy(file.labels),
        index=torch.arange(file.labels.size),
        bag_ids=tuple(f"{file.path.stem}_{number}" for number in file.numbers()),
        groups=file.groups,
    )
