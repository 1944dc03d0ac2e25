"""Bags of slide features: one feature file per slide and a CSV table of the slides."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.mil.base import IntArray, MILDataModule
from datamodules.mil.feature_bags import FeatureBags
from datamodules.mil.feature_set import FeatureFolder, FeatureSet
from datamodules.mil.opened_slides import PatientLabel, check_patient_label
from datamodules.mil.overlap.members import Members, members_of
from datamodules.mil.slide_labels import LABEL
from datamodules.mil.splits import NAMES, BagSplit, SplitOptions, choose_splits, write_splits
from datamodules.mil.targets.checks import check_training_targets
from datamodules.mil.targets.options import TargetOptions
from datamodules.mil.targets.strata import drawn_by
from datamodules.sampling.keys import SampleKey
from formats.feature_arrays import FeatureKeys
from structures import BagBatch, MILTask, Problem


class FeatureBagsDataModule(MILDataModule):
    """Bags of the slides in a table (layouts: `datamodules.mil.slide_table`, `feature_files`).

    The constructor opens the header of every file; features are read bag by bag and converted to
    single precision. Splits follow the column ``split`` or ``fold`` of the table; without them they
    are drawn, stratified and by patient if the table has patients. Prediction uses all bags.

    Args:
        table: the CSV.
        features: folder of the feature files; null for ``features`` next to the table.
        fold: number of the test fold; null for the table's ``split``, or else ``test_fraction``.
        repeat: repeat of the cross-validation to which ``fold`` belongs.
        num_folds: number of folds to draw if the table has none.
        test_fraction: share of test bags if neither ``fold`` nor ``split`` defines them.
        val_fraction: share of validation bags among the bags that are not test bags, if ``split``
            has no ``val``.
        split_seed: seed of splits and folds; independent of ``seed``, so that training with
            another seed uses the same data.
        bag: a slide, or all slides of a patient.
        patient_label: label of a patient whose slides differ. ``same``: an error that names the
            patient and the slides; ``max``: the largest label number, so that a patient with a
            positive slide is positive, or all classes of the slides of a multilabel task. It needs
            bags of patients.
        max_instances: in training, larger bags are reduced to a random subset that changes every
            epoch; evaluation reads whole bags. Null for whole bags in training, too.
        token_budget: instances per training batch of at most ``batch_size`` bags; null for
            batches of ``batch_size`` bags.
        class_names: name of each class, indexed by label; null to take them from the table.
        task: kind of the labels; null for multilabel where slides have several classes, else
            binary with two classes, multiclass with more. ``cox`` and ``discrete_time`` for times,
            ``regression`` for values, ``ordinal`` for grades, which are classes in the order of
            ``class_names``.
        label_columns: the column of the labels if it is not ``label``, or one column of zeros and
            ones for each class, of which a slide may have several.
        time_column: column of the times.
        event_column: column of the events, 1 if the event happened, 0 for a censored time; null for
            ``event``, unless ``censorship_column`` is given.
        censorship_column: column with the opposite meaning: 1 for a censored time.
        target_columns: columns of the values of ``regression``, empty where unknown.
        time_bins: number of bins of ``discrete_time``.
        labels_needed: whether a table without columns of times or values is refused, and targets
            that nothing can be learnt from.
        cache_gib: memory in GiB to keep features in once they have been read; the workers share it,
            each training process has its own. Training and validation bags are kept, in this order,
            as far as they fit; they are kept whole, even with ``max_instances``. 0 for none.
        augmented: whether training draws the features of a bag, epoch by epoch, from the augmented
            versions in its files and those without augmentation; evaluation reads the latter.
        features_key: name of the features in a file.
        coords_key: name of the coordinates in a file.
        instance_labels_key: name of the instance labels in a file, which only evaluation uses.
        **shared: the arguments of ``MILDataModule``.

    Raises:
        ValueError: the table or a file is wrong, or an argument is out of range.
    """

    path_argument = "table"
    later_defaults: ClassVar = {
        "patient_label": "same",
        "time_column": "time",
        "time_bins": 4,
        "labels_needed": True,
    }
    left_out: Collection[str] = ()  # slides of the table that are not used

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
        patient_label: PatientLabel = "same",
        max_instances: int | None = None,
        token_budget: int | None = None,
        class_names: Sequence[str] | None = None,
        task: MILTask | None = None,
        label_columns: Sequence[str] | None = None,
        time_column: str = "time",
        event_column: str | None = None,
        censorship_column: str | None = None,
        target_columns: Sequence[str] | None = None,
        time_bins: int = 4,
        labels_needed: bool = True,
        cache_gib: float = 0.0,
        augmented: bool = False,
        features_key: str = "features",
        coords_key: str = "coords",
        instance_labels_key: str = "instance_labels",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.plan = dataclasses.replace(
            self.plan, token_budget=token_budget, max_instances=max_instances
        )
        self._keys = FeatureKeys(features_key, coords_key, instance_labels_key)
        self._bag: Literal["slide", "patient"] = bag
        self._patient_label: PatientLabel = patient_label
        check_patient_label(bag, patient_label, task)
        columns = (time_column, event_column, censorship_column, target_columns)
        targets = TargetOptions(task, *columns, time_bins, labels_needed)
        patients = (bag == "patient", patient_label)
        place = FeatureFolder(features, self._keys, *patients, self.left_out)
        self.bags = FeatureSet(
            Path(table), place, class_names, task, self.bad_data, label_columns, targets
        )
        self.problems = self.bags.problems
        self.num_classes, self.in_features = self.bags.num_classes, self.bags.in_features
        self.task, self.class_names = self.bags.task, self.bags.class_names
        self.extraction, self.target_names = self.bags.extraction, self.bags.target_names
        kinds = {"several": self.task == "multilabel", "named": not targets.apply}
        self.plan.check_classes(self.num_classes, **kinds)
        options = SplitOptions(fold, repeat, num_folds, test_fraction, val_fraction, split_seed)
        self._splits = choose_splits(self.bags, options)
        self._check_targets(targets)
        if augmented:
            self._draw_versions()
        repeated = [*self.numbers("train"), *self.numbers("val")]  # test bags are read once
        self._kept, self._repeated = self.bags.keep_in_memory(repeated, cache_gib), len(repeated)
        self._cache_gib = cache_gib

    def _check_targets(self, targets: TargetOptions) -> None:
        if not self.problems:  # which `check-data` lists first
            train = self.bags.labels[self._splits["train"]]
            check_training_targets(self.bags.path, train, targets)

    def _draw_versions(self) -> None:
        if self.plan.chunk_instances is not None:  # A693
            raise ValueError("augmented draws whole bags; leave out chunk_instances")
        self.bags.use_versions(self.numbers("train"))

    @classmethod
    def section_for(
        cls, path: Path, record: Mapping[str, Any], folder: Path | None = None
    ) -> dict[str, Any] | None:
        """Return the section for a CSV of slides; see the base class.

        Features are read from the given folder, from ``features`` next to the CSV, or from the
        folder used in training.
        """
        known = cls.arguments_like(record)
        if known is None or path.suffix.lower() != ".csv":
            return None
        if "mean" in record["facts"]["preprocessing"]:
            raise ValueError(
                f"{path}: the checkpoint standardises the features of an npz file and cannot be "
                "applied to features of slides; give an npz file"
            )
        if folder is None and not (path.parent / "features").is_dir():
            folder = _trained_features(record["blueprint"]["data"]["init_args"])
        named = {} if folder is None else {"features": str(folder)}
        return cls.section(known | named | {"table": str(path)})

    def source(self, split: BagSplit) -> FeatureSet:
        """Return the bags in the order of the table; each is read when it is requested."""
        del split
        return self.bags

    def numbers(self, split: BagSplit) -> Sequence[int]:
        """Return the numbers of the bags of the split."""
        return np.flatnonzero(self._splits[split]).tolist()

    def dataset(self, split: BagSplit) -> Dataset[BagBatch]:
        """Return a data set of whole bags, or of chunks or reduced bags in training."""
        if split == "train" and self.plan.chunk_instances is not None:
            return super().dataset(split)
        if split != "train":
            return FeatureBags(self.bags)
        return FeatureBags(self.bags, self.plan.max_instances, self.seed, self.bags.versions)

    def train_dataloader(self) -> DataLoader[BagBatch]:
        """Return batches of training bags; say if they are not the whole bags as they are."""
        most = self.plan.max_instances
        if self._cache_gib and self._kept < self._repeated:
            rank_zero_info(
                f"{self._kept} of {self._repeated} training and validation bags fit into "
                f"{self._cache_gib:g} GiB (cache_gib); the others are read in every epoch"
            )
        if self.bags.versions:
            rank_zero_info(
                f"each epoch draws a bag's features from {self.bags.versions} augmented versions "
                "and those without augmentation. Evaluation reads the latter."
            )
        numbers = self.numbers("train")
        longer = 0 if most is None else int((self.bags.sizes[numbers] > most).sum())
        if longer:
            rank_zero_info(
                f"{longer} of {len(numbers)} training bags have more than {most} instances; each "
                "epoch uses a new random subset of them. Evaluation reads whole bags."
            )
        return super().train_dataloader()

    def training_batches(self) -> Sampler[list[SampleKey]]:
        """Return the batch sampler of training."""
        bags, numbers = self.bags, self.numbers("train")
        kinds = drawn_by(bags.labels, self.task, bags.groups, numbers)
        return self.plan.build(numbers, kinds, bags.sizes, bags.weights, self.seed)

    def check(self, thorough: bool = False) -> list[Problem]:
        """Return the problems of the slides; if thorough, read every feature."""
        return self.bags.check(thorough)

    def contents(self, split: BagSplit) -> tuple[npt.NDArray[Any], IntArray, tuple[str, ...]]:
        """Return labels, instance counts (b,) and patients (may be empty) of a split."""
        chosen = self.numbers(split)
        patients = tuple(self.bags.groups[b] for b in chosen) if self.bags.groups else ()
        return self.bags.labels[chosen], self.bags.sizes[chosen], patients

    def write_splits(self, path: Path) -> str:
        """Write slide, patient, columns of labels and ``split``, which can be used as ``table``.

        Returns:
            The file's SHA-256.
        """
        split_of = np.full(len(self.bags), "", dtype=object)
        for name in NAMES:
            split_of[self._splits[name]] = name
        rows = list(self.bags.split_rows(split_of.tolist()))
        return write_splits(path, rows, "slide_id", self.bags.label_columns)

    def members(self, split: BagSplit) -> Members:
        """Return patients and bags of a split."""
        return members_of(self.bags, self.numbers(split))

    def evaluation_arguments(self) -> dict[str, Any]:
        """Return batch size, names of columns and arrays and kind of bag.

        Features are used unchanged.
        """
        columns, targets = self.bags.label_columns, self.bags.targets
        named = None if columns == (LABEL,) or targets.apply else list(columns)
        return targets.record() | {
            "eval_batch_size": self.eval_batch_size,
            "standardise": False,
            "bag": self._bag,
            "patient_label": self._patient_label,
            "label_columns": named,
            "features_key": self._keys.features,
            "coords_key": self._keys.coords,
            "instance_labels_key": self._keys.instance_labels,
        }


def _trained_features(arguments: Mapping[str, Any]) -> Path | None:
    """Return the folder of features used in training if it still exists."""
    folder, table = arguments.get("features"), arguments.get("table")
    if folder is None and table is not None:
        folder = Path(table).parent / "features"
    if folder is None or not Path(folder).is_dir():
        return None
    rank_zero_info(f"features are read from the folder used in training: {folder}")
    return Path(folder)
