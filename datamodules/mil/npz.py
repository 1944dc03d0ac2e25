"""Bags from one npz file, such as the classic multiple-instance sets."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from datamodules.mil.base import IntArray, MILDataModule
from datamodules.mil.npz_file import BagFile, read_bag_file
from datamodules.mil.overlap.members import Members, members_of
from datamodules.mil.splits import BagSplit, SplitOptions, choose_splits
from datamodules.mil.standardisation import Standardisation
from datamodules.mil.targets.checks import check_training_targets
from datamodules.mil.targets.options import TargetOptions
from structures import BagBatch, MILTask


class TabularBagsDataModule(MILDataModule):
    """Bags of an npz file (layout: `datamodules.mil.npz_file`), split by fold or by shares.

    The test bags are one fold of a cross-validation, with the published folds if the file has
    them, or a stratified share. Validation bags are a stratified share of the others. If the file
    has patients (``groups``), no patient is in two splits. Prediction uses all bags of the file.

    Args:
        file: the npz file.
        fold: number of the test fold; None to hold out ``test_fraction`` instead.
        repeat: repeat of the cross-validation to which ``fold`` belongs.
        num_folds: number of folds to draw if the file has none.
        test_fraction: share of test bags if ``fold`` is None.
        val_fraction: share of validation bags among the bags that are not test bags; 0 for no
            validation.
        split_seed: seed of splits and folds; independent of ``seed``, so that training with
            another seed uses the same data.
        standardise: centre and scale each feature by statistics of the training bags.
        clip: largest absolute value of a standardised feature, or None.
        mean: mean of each feature, to use instead of the mean of the training bags.
        std: standard deviation of each feature, to use instead of that of the training bags.
        class_names: name of each class, indexed by label; null to take them from the labels.
        task: kind of the labels; null for multilabel if the labels are (B, C), else binary with
            two classes, multiclass with more; ``cox`` or ``discrete_time`` for ``time`` and
            ``event``, ``regression`` for values, ``ordinal`` for classes in their order.
        target_columns: names of the values to use, in this order; null for all of the file.
        time_bins: number of bins of ``discrete_time``.
        labels_needed: whether files without times or values are refused.
        **shared: the arguments of ``MILDataModule``.

    Attributes:
        standardisation: the statistics in use, or None.

    Raises:
        ValueError: the file does not follow the layout, a fold or share does not exist, or the
            given statistics do not fit the file.
    """

    path_argument = "file"
    asked_last = True
    later_defaults: ClassVar = {"time_bins": 4, "labels_needed": True}

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
        target_columns: Sequence[str] | None = None,
        time_bins: int = 4,
        labels_needed: bool = True,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        classes = None if class_names is None else len(class_names)
        targets = TargetOptions(
            task, target_columns=target_columns, time_bins=time_bins, labels_needed=labels_needed
        )
        self._file = read_bag_file(file, classes, self.bad_data, task, targets)
        self.problems = self._file.problems
        options = SplitOptions(fold, repeat, num_folds, test_fraction, val_fraction, split_seed)
        self._splits = choose_splits(self._file, options)
        self.in_features, self.num_classes = self._file.in_features, self._file.num_classes
        self.task = self._file.task if task is None else task
        several = self.task == "multilabel"
        if self.task == "binary" and self.num_classes != 2:
            raise ValueError(
                f"{file}: one label per bag from {self.num_classes} classes does not fit the task "
                f"{self.task}; use multiclass, or binary with two classes"
            )
        signs = self.num_classes == 2 and not several
        names = ["negative", "positive"] if signs else range(self.num_classes)
        apply = self._file.targets.apply
        self.class_names = [] if apply else [str(name) for name in class_names or names]
        self.target_names = self._file.target_names
        self.plan.check_classes(self.num_classes, several=several, named=not apply)
        known = self._file.labels[self._splits["train"]]
        check_training_targets(self._file.path, known, self._file.targets)
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
            raise ValueError("mean and std must be given together and need standardise: true")
        if not standardise:
            return None
        if mean is not None and std is not None:
            return Standardisation.from_lists(mean, std, clip)
        train = self._file.rows_of(self._splits["train"])
        if not train.any():
            raise ValueError(
                f"{self._file.path}: there are no training bags to standardise features with; give "
                "mean and std, or standardise: false"
            )
        return Standardisation.fit(self._file.features[train], clip)

    def source(self, split: BagSplit) -> BagBatch:
        """Return all bags of the file, standardised; a bag's number is its position in ``y``."""
        del split
        return self._bags

    def numbers(self, split: BagSplit) -> Sequence[int]:
        """Return the numbers of the bags of the split."""
        return np.flatnonzero(self._splits[split]).tolist()

    def contents(self, split: BagSplit) -> tuple[npt.NDArray[Any], IntArray, tuple[str, ...]]:
        """Return labels, instance counts (b,) and patients (may be empty) of a split."""
        chosen, file = self.numbers(split), self._file
        patients = tuple(file.groups[b] for b in chosen) if file.groups else ()
        return file.labels[chosen], file.sizes[chosen], patients

    def members(self, split: BagSplit) -> Members:
        """Return patients and bags of a split."""
        return self._trained_on if split == "train" else members_of(self._file, self.numbers(split))

    @functools.cached_property  # every checkpoint asks for it, and all instances are read
    def _trained_on(self) -> Members:
        return members_of(self._file, self.numbers("train"))

    def evaluation_arguments(self) -> dict[str, Any]:
        """Return batch size, statistics and clipping limit."""
        arguments: dict[str, Any] = {"eval_batch_size": self.eval_batch_size}
        arguments |= self._file.targets.record()
        if self.standardisation is None:
            return arguments | {"standardise": False}
        mean, std, limit = self.standardisation
        return arguments | {"mean": mean.tolist(), "std": std.tolist(), "clip": limit}

    @functools.cached_property
    def _bags(self) -> BagBatch:
        return packed(self._file, self.standardisation)


def packed(file: BagFile, standardisation: Standardisation | None) -> BagBatch:
    """Return all bags of a file, standardised if statistics are given.

    Raises:
        ValueError: the statistics have a different number of features.
    """
    features, known = torch.from_numpy(file.features), file.instance_labels
    if standardisation is not None:
        try:
            features = standardisation.apply(file.features)
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from None
    return BagBatch(
        features=features,
        offsets=torch.from_numpy(file.offsets),
        labels=torch.from_numpy(file.labels),
        index=torch.arange(len(file.labels)),
        instance_labels=None if known is None else torch.from_numpy(known),
        bag_ids=tuple(f"{file.path.stem}_{number}" for number in file.numbers()),
        groups=file.groups,
    )
