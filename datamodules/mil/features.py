"""Bags of slide features: one feature file a slide and a CSV that names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import Dataset, Sampler

from datamodules.mil.base import IntArray, MILDataModule
from datamodules.mil.feature_set import FeatureBags, FeatureFolder, FeatureSet
from datamodules.mil.splits import NAMES, BagSplit, SplitOptions, choose_splits, write_splits
from datamodules.sampling.keys import SampleKey
from formats.features import FeatureKeys
from structures import BagBatch, MILTask, Problem


class FeatureBagsDataModule(MILDataModule):
    """Bags of the slides of a table (layouts: `datamodules.mil.slide_table`, `feature_files`).

    Construction opens the header of every file; features are read bag by bag, in single precision
    whatever the file holds. Splits follow the table's columns ``split`` or ``fold``, or are made:
    stratified, and by patient where the table names patients. Predicting takes all bags.

    Args:
        table: the CSV.
        features: folder of the feature files; null for ``features`` beside the table.
        fold: number of the test fold; null for the table's ``split``, or else ``test_fraction``.
        repeat: which repeat of cross-validation ``fold`` belongs to.
        num_folds: folds to make where the table has none.
        test_fraction: share to test on where neither ``fold`` nor ``split`` tells.
        val_fraction: share of what is not tested on to validate on, where ``split`` names no val.
        split_seed: of splits and folds; independent of ``seed``, so that training with another
            seed meets the same data.
        bag: a slide, or all slides of a patient.
        max_instances: training cuts larger bags to a random part, another one every epoch;
            evaluation reads whole bags. Null for whole bags in training, too.
        token_budget: instances of a training batch, of at most ``batch_size`` bags; null for
            batches of ``batch_size`` bags.
        class_names: the classes by label; null to take them from the table.
        task: what the labels mean; null for binary with two classes, else multiclass.
        features_key: name of the features in a file.
        coords_key: name of the coordinates.
        **shared: the arguments of ``MILDataModule``.

    Raises:
        ValueError: the table or a file is wrong, or an argument is out of range.
    """

    path_argument = "table"

    def __init__(
        self,
        table: Path,
        features: Path | None = None,
        fold: int | None = None,
        repeat: int = 0,
        num_folds: int = 10,
        test_fraction: float = 0.2,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        bag: Literal["slide", "patient"] = "slide",
        max_instances: int | None = None,
        token_budget: int | None = None,
        class_names: Sequence[str] | None = None,
        task: MILTask | None = None,
        features_key: str = "features",
        coords_key: str = "coords",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.plan = dataclasses.replace(
            self.plan, token_budget=token_budget, max_instances=max_instances
        )
        self._keys = FeatureKeys(features_key, coords_key)
        self._bag: Literal["slide", "patient"] = bag
        place = FeatureFolder(features, self._keys, bag == "patient")
        self.bags = FeatureSet(Path(table), place, class_names, task, self.bad_data)
        self.problems = self.bags.problems
        self.num_classes, self.in_features = self.bags.num_classes, self.bags.in_features
        self.task, self.class_names = self.bags.task, self.bags.class_names
        self.plan.check_classes(self.num_classes)
        options = SplitOptions(fold, repeat, num_folds, test_fraction, val_fraction, split_seed)
        self._splits = choose_splits(self.bags, options)

    @classmethod
    def section_for(
        cls, path: Path, record: Mapping[str, Any], folder: Path | None = None
    ) -> dict[str, Any] | None:
        """Return the section for a CSV of slides; see the base class.

        Features lie in the folder given, in ``features`` beside the CSV, or where the training had
        its own.
        """
        known = cls.arguments_like(record)
        if known is None or path.suffix.lower() != ".csv":
            return None
        if "mean" in record["facts"]["preprocessing"]:
            raise ValueError(
                f"{path}: the checkpoint standardises the features of an npz file, which features "
                "of slides are not; give an npz file"
            )
        if folder is None and not (path.parent / "features").is_dir():
            folder = _trained_features(record["blueprint"]["data"]["init_args"])
        named = {} if folder is None else {"features": str(folder)}
        return cls.section(known | named | {"table": str(path)})

    def source(self, split: BagSplit) -> FeatureSet:
        """Return the bags of the table, read when asked for; a number is a place in the table."""
        del split
        return self.bags

    def numbers(self, split: BagSplit) -> Sequence[int]:
        """Return the numbers of the split's bags."""
        return np.flatnonzero(self._splits[split]).tolist()

    def dataset(self, split: BagSplit) -> Dataset[BagBatch]:
        """Return whole bags, except in training with ``max_instances``."""
        most = self.plan.max_instances if split == "train" else None
        return FeatureBags(self.bags, most, self.seed)

    def training_batches(self) -> Sampler[list[SampleKey]]:
        """Return what chooses the bags of each training step; tell once what is cut."""
        numbers, most = self.numbers("train"), self.plan.max_instances
        if most is not None:
            longer = int((self.bags.sizes[numbers] > most).sum())
            rank_zero_info(
                f"{longer} of {len(numbers)} training bags have more than {most} instances; every "
                "epoch takes another random part of them. Evaluation reads whole bags."
            )
        bags = self.bags
        return self.plan.build(numbers, bags.labels, bags.sizes, bags.weights, self.seed)

    def check(self, thorough: bool = False) -> list[Problem]:
        """Return what is wrong with the slides; if thorough, read every feature."""
        return self.bags.check(thorough)

    def contents(self, split: BagSplit) -> tuple[IntArray, IntArray, tuple[str, ...]]:
        """Return labels (b,), instances (b,) and patients, or none, of the bags of a split."""
        chosen = self.numbers(split)
        patients = tuple(self.bags.groups[b] for b in chosen) if self.bags.groups else ()
        return self.bags.labels[chosen], self.bags.sizes[chosen], patients

    def write_splits(self, path: Path) -> str:
        """Write ``slide_id,patient_id,label,split``, which can be read as ``table`` again.

        Returns:
            The file's SHA-256.
        """
        split_of = np.full(len(self.bags), "", dtype=object)
        for name in NAMES:
            split_of[self._splits[name]] = name
        return write_splits(path, list(self.bags.split_rows(split_of.tolist())), "slide_id")

    def evaluation_arguments(self) -> dict[str, Any]:
        """Return batch size, names of arrays and what a bag is; features are used as they are."""
        return {
            "eval_batch_size": self.eval_batch_size,
            "standardise": False,
            "bag": self._bag,
            "features_key": self._keys.features,
            "coords_key": self._keys.coords,
        }


def _trained_features(arguments: Mapping[str, Any]) -> Path | None:
    """Return where training had the features of its slides, if that is still there."""
    folder, table = arguments.get("features"), arguments.get("table")
    if folder is None and table is not None:
        folder = Path(table).parent / "features"
    if folder is None or not Path(folder).is_dir():
        return None
    rank_zero_info(f"features are read where the training read them: {folder}")
    return Path(folder)
