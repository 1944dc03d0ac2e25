"""Bags from one npz file, such as the classic multiple-instance sets."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datamodules.bag_file import BagFile, read_bag_file
from datamodules.bags import BagSplit, MILDataModule
from datamodules.folds import hold_out
from datamodules.standardisation import Standardisation
from structures import BagBatch, MILTask

BoolArray = npt.NDArray[np.bool_]


class TabularBagsDataModule(MILDataModule):
    """Bags of an npz file (layout: `datamodules.bag_file`), split by fold or by fractions.

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
        **shared: the arguments of ``MILDataModule``.

    Attributes:
        standardisation: the statistics in use, or None.

    Raises:
        ValueError: the file breaks its layout, a fold or share does not exist, or the given
            statistics do not fit the file.
    """

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
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self._file = read_bag_file(file)
        self._splits = self._split(fold, repeat, num_folds, test_fraction, val_fraction, split_seed)
        self.in_features = self._file.features.shape[1]
        self.num_classes, self.task = facts_of(self._file)
        names = ["negative", "positive"]
        self.class_names = (
            names if self.num_classes == 2 else [str(c) for c in range(self.num_classes)]
        )
        self.standardisation = self._statistics(standardise, clip, mean, std)

    def _split(
        self,
        fold: int | None,
        repeat: int,
        num_folds: int,
        test_fraction: float,
        val_fraction: float,
        seed: int,
    ) -> dict[str, BoolArray]:
        bags = self._file
        if fold is None:
            test = hold_out(bags.labels, test_fraction, (seed, 0, 0), bags.groups)
        else:
            folds = bags.folds(num_folds, repeat, seed)
            if not 0 <= fold <= folds.max():
                raise ValueError(f"{bags.path}: folds are 0 to {folds.max()}, got {fold}")
            test = folds == fold
            if bags.published_folds is not None and num_folds != folds.max() + 1:
                warnings.warn(
                    f"{bags.path} has {folds.max() + 1} published folds; num_folds={num_folds} "
                    "is ignored",
                    stacklevel=3,
                )
        rest = np.flatnonzero(~test)
        groups = [bags.groups[b] for b in rest] if bags.groups else ()
        key = (seed, 1, repeat, 0 if fold is None else fold + 1)
        val = np.zeros(test.size, dtype=bool)
        val[rest] = hold_out(bags.labels[rest], val_fraction, key, groups)
        train = ~test & ~val
        lost = sorted(set(bags.labels.tolist()) - set(bags.labels[train].tolist()))
        if lost:
            warnings.warn(
                f"{bags.path}: no training bag has class {lost}; change fold, test_fraction or "
                "val_fraction before you train on it",
                stacklevel=3,
            )
        return {"train": train, "val": val, "test": test, "predict": np.ones_like(test)}

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
        return Standardisation.fit(self._file.features[train], clip)

    def source(self, split: BagSplit) -> BagBatch:
        """Return all bags of the file, standardised; a bag's number is its place in ``y``."""
        del split
        return self._bags

    def numbers(self, split: BagSplit) -> Sequence[int]:
        """Return the numbers of the split's bags."""
        return np.flatnonzero(self._splits[split]).tolist()

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


def facts_of(file: BagFile) -> tuple[int, MILTask]:
    """Return the number of classes and the task that the labels of a file mean."""
    num_classes = max(2, int(file.labels.max()) + 1)
    return num_classes, "binary" if num_classes == 2 else "multiclass"


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
        bag_ids=tuple(f"{file.path.stem}_{b}" for b in range(file.labels.size)),
        groups=file.groups,
    )
