"""Bags of slide features: the table is read on construction, features when a bag is requested."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from datamodules.mil.class_names import similar_names
from datamodules.mil.feature_cache import FeatureCache
from datamodules.mil.opened_slides import (
    PatientLabel,
    Slide,
    bag_labels,
    grouped,
    non_finite_problem,
    open_slides,
    order_warning,
    patient_problems,
    version_problems,
)
from datamodules.mil.slide_labels import LabelOptions
from datamodules.mil.slide_table import read_slide_table
from datamodules.mil.splits import folds_of
from datamodules.mil.targets.options import TargetOptions
from formats.extraction import shared_extraction
from formats.feature_arrays import FeatureKeys
from formats.features import (
    FeatureFile,
    at_most_single,
    first_not_finite,
    read_coords,
    read_features,
)
from formats.slide_features import version_name
from structures import BadDataPolicy, BagBatch, DataProblems, MILTask, Problem, settle

IntArray = npt.NDArray[np.int64]

# Up to this many bytes, all features are checked before training: half a second for npy files, a
# few seconds for h5. Larger sets are read completely only by `skip` and `check-data`  # A61
_VALUES_LIMIT = 1 << 30


class FeatureFolder(NamedTuple):
    """Location of the feature files and how slides are grouped into bags.

    Attributes:
        folder: folder of the feature files; None for ``features`` next to the table.
        keys: names of the arrays in a file.
        by_patient: a bag consists of all slides of a patient, in the order of the table.
        patient_label: the label of a patient whose slides differ. ``same``: an error; ``max``: the
            largest number, or the union of several classes a slide.
        left_out: slides of the table that are not used.
    """

    folder: Path | None = None
    keys: FeatureKeys = FeatureKeys()
    by_patient: bool = False
    patient_label: PatientLabel = "same"
    left_out: Collection[str] = ()


class FeatureSet:
    """B bags of slide features. The constructor opens the header of every file.

    The values of all features are checked on construction if they take up to 1 GiB.

    Args:
        table: the CSV, see `datamodules.mil.slide_table`.
        features: location of the feature files.
        class_names: name of each class, indexed by label; None to take them from the table.
        task: kind of the labels; None for binary with two classes, else multiclass.
        bad_data: ``skip`` leaves faulty slides out; it reads all features once to find them,
            whatever their size. A patient in two splits or folds is an error even then.
        label_columns: columns of the labels, see `datamodules.mil.slide_labels`; None for
            ``label``.
        targets: columns of times and values.

    Attributes:
        path: the table.
        bag_ids: ids of the slides or patients.
        labels: (B,) classes, or (B, C) zeros and ones for a multilabel task, -1 where unknown; or
            float64 (B, 2) time and event, or (B, T) values, NaN where unknown.
        groups: the patient of each bag; empty if the table has no patients.
        sizes: (B,) number of instances of each bag.
        weights: (B,) weights for the weighted sampler, or None.
        published_folds: (1, B) test folds of the table, or None.
        named_splits: ``train``, ``val`` or ``test`` for each bag, or empty.
        class_names: names of the classes, or empty for times and values.
        num_classes: number of classes, bins or values.
        target_names: columns of the values of ``regression``, or empty.
        targets: see above.
        task: see above.
        in_features: number of features per instance.
        problems: problems of the slides that were left out.
        extraction: how the features were extracted, if all files say so, see `formats.extraction`.
        versions: augmented versions that training draws from, see `use_versions`; 0 for none.

    Raises:
        DataProblems: the table or a file is wrong, see `structures.problem.settle`.
    """

    def __init__(
        self,
        table: Path,
        features: FeatureFolder = FeatureFolder(),  # noqa: B008
        class_names: Sequence[str] | None = None,
        task: MILTask | None = None,
        bad_data: BadDataPolicy = "error",
        label_columns: Sequence[str] | None = None,
        targets: TargetOptions = TargetOptions(),  # noqa: B008
    ) -> None:
        self.path, self._keys = Path(table), features.keys
        self._cache: FeatureCache | None = None
        self.versions, self._versioned = 0, frozenset[int]()
        self._names_are_given = class_names is not None
        self.targets = targets._replace(task=task)
        options = LabelOptions(class_names, label_columns, task, self.targets)
        self._table, faults = read_slide_table(self.path, options)
        fatal = list(patient_problems(self._table))
        folder = self.path.parent / "features" if features.folder is None else features.folder
        slides, more = open_slides(self._table, Path(folder), self._keys, features.left_out)
        faults += more
        if bad_data == "skip" or sum(slide.bytes for slide in slides) <= _VALUES_LIMIT:
            found = {slide.name: fault for slide in slides for fault in self._values(slide)}
            faults += found.values()
            slides = [slide for slide in slides if slide.name not in found]
        if fatal:
            raise DataProblems(fatal + faults)
        self._bags, more = grouped(self._table, slides, features.by_patient, features.patient_label)
        self.problems = settle(faults + more, bad_data)
        if not self._bags:
            raise DataProblems(
                [*self.problems, Problem(self.path, None, None, "no usable slide", "see above")]
            )
        # Where some slides are annotated, those that are not have unknown instance labels  # A404
        self._labelled = any(slide.header.has_labels for bag in self._bags for slide in bag)
        self._describe(features)
        if class_names is None and (warning := order_warning(self._table, self._bags)):
            rank_zero_warn(warning)
        self.class_names = list(self._table.class_names)
        times_or_values = self.targets.apply
        self.num_classes = self.targets.num_classes if times_or_values else len(self.class_names)
        self.target_names = self.targets.columns if task == "regression" else ()
        single: MILTask = "binary" if self.num_classes == 2 else "multiclass"
        self.task: MILTask = task or ("multilabel" if self.labels.ndim == 2 else single)
        if not times_or_values:
            self._check_task()

    def _check_task(self) -> None:
        if not self.class_names:
            raise ValueError(
                f"{self.path}: column `label` is missing, so the classes are unknown; add it to "
                "train or evaluate, name the columns that hold labels by label_columns, or predict "
                "with a checkpoint"
            )
        if self.task == "binary" and self.num_classes != 2:
            raise ValueError(
                f"{self.path}: the table has one label per slide from {self.num_classes} classes "
                f"{self.class_names}, which does not fit the task {self.task}; use multiclass, or "
                "binary with two classes"
            )

    def _describe(self, place: FeatureFolder) -> None:
        table, first = self._table, [bag[0].line for bag in self._bags]
        self.in_features = self._bags[0][0].header.width
        self.extraction = shared_extraction(s.header.extraction for bag in self._bags for s in bag)
        self.labels: npt.NDArray[Any] = bag_labels(table, self._bags, place.patient_label)
        self.groups = tuple(table.patients[at] for at in first) if table.patients else ()
        self.bag_ids = tuple(
            self.groups[b] if place.by_patient and self.groups else bag[0].name
            for b, bag in enumerate(self._bags)
        )
        self.sizes: IntArray = np.array([sum(s.header.instances for s in b) for b in self._bags])
        self.weights = None
        if table.weights is not None:
            self.weights = np.array(
                [table.weights[[s.line for s in bag]].mean() for bag in self._bags]
            )
        self.published_folds = None if table.folds is None else table.folds[first][None]
        self.named_splits = tuple(table.splits[at] for at in first) if table.splits else ()

    def __len__(self) -> int:
        """Return B."""
        return len(self._bags)

    def folds(self, num_folds: int, repeat: int, seed: int) -> IntArray:
        """Return (B,) test folds, see `datamodules.mil.splits.folds_of`."""
        return folds_of(self, num_folds, repeat, seed)

    def slides(self, number: int) -> tuple[Slide, ...]:
        """Return the slides of a bag, in the order of its instances."""
        return tuple(self._bags[number])

    def slide_numbers(self, number: int) -> IntArray:
        """Return (n,) the position in `slides` of the slide that each instance of a bag is of."""
        sizes = [slide.header.instances for slide in self._bags[number]]
        return np.repeat(np.arange(len(sizes)), sizes)

    def coords(self, number: int) -> tuple[Tensor | None, ...]:
        """Return the coordinates of each slide of a bag, None where a slide has none.

        A bag has coordinates only if all of its slides have, see `bag`.
        """
        return tuple(
            read_coords(slide.file, self._keys) if slide.header.has_coords else None
            for slide in self._bags[number]
        )

    def use_versions(self, numbers: Sequence[int]) -> None:
        """Let training draw from the augmented versions of bags.

        Args:
            numbers: the bags that are trained on.

        Raises:
            DataProblems: a slide of them has no versions, or another number than the first one.
        """
        slides = [slide for number in numbers for slide in self._bags[number]]
        self.versions = slides[0].header.versions if slides else 0
        faults = list(version_problems(slides))
        if faults:
            raise DataProblems(faults)
        self._versioned = frozenset(numbers)

    def keep_in_memory(self, numbers: Sequence[int], gib: float) -> int:
        """Keep slides in memory once they have been read, shared by worker processes.

        Args:
            numbers: the bags to keep, in order of importance.
            gib: most memory in GiB; 0 for none.

        Returns:
            How many of the bags fit.

        Raises:
            ValueError: ``gib`` is negative, or more than the memory of the machine would be used.
        """
        places = [list(self._places(number)) for number in numbers]
        sizes = {place: size for bag in places for place, size in bag}
        self._cache = FeatureCache.of_size(sizes, gib)
        kept = () if self._cache is None else self._cache.kept
        return sum(all(place in kept for place, _ in bag) for bag in places)

    def _places(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield the number of each array of a bag in memory, and its bytes."""
        for version in range(1 + (self.versions if number in self._versioned else 0)):
            for slide in self._bags[number]:
                yield self._place(slide, version), slide.bytes_in_memory

    def _place(self, slide: Slide, version: int) -> int:
        return slide.line * (1 + self.versions) + version

    def bag(
        self, number: int, rows: Tensor | None = None, *, copy: bool = True, version: int = 0
    ) -> BagBatch:
        """Read one bag.

        Args:
            number: number of the bag.
            rows: (n,) int64, ascending indices of the instances to read; None for all.
            copy: False for a bag that is copied at once: its features may be those of the file or
                of the cache, so that they must neither be kept nor changed.
            version: number of the augmented version, from 1; 0 for the features themselves.

        Returns:
            The bag, with features in the precision of the file, at most single (A60); a batch of
            bags is converted by `BagBatch.in_single_precision`.

        Raises:
            ValueError: a file has changed, is broken or contains NaN; the message names slide and
                row.
        """
        parts: list[FeatureFile] = []
        start = 0
        for slide in self._bags[number]:
            end = start + slide.header.instances
            inside = None if rows is None else rows[(rows >= start) & (rows < end)] - start
            parts.append(self._read(slide, inside, version))
            start = end
        features = [part.features for part in parts]
        coords = [part.coords for part in parts if part.coords is not None]
        joined = torch.cat(features) if copy or len(features) > 1 else features[0]
        return BagBatch(
            features=joined,
            offsets=torch.tensor([0, len(joined)]),
            labels=torch.from_numpy(self.labels[number : number + 1]),
            index=torch.tensor([number]),
            coords=torch.cat(coords) if len(coords) == len(parts) else None,
            instance_labels=self._instance_labels(parts),
            bag_ids=(self.bag_ids[number],),
            instance_index=rows,
            groups=self.groups[number : number + 1],
        )

    def _instance_labels(self, parts: Sequence[FeatureFile]) -> Tensor | None:
        """Return the instance labels of a bag, -1 for slides without; None if no slide has any."""
        if not self._labelled:
            return None
        known = [part.instance_labels for part in parts]
        return torch.cat([
            torch.full((len(part.features),), -1) if labels is None else labels
            for part, labels in zip(parts, known, strict=True)
        ])  # fmt: skip

    def _read(self, slide: Slide, rows: Tensor | None, version: int) -> FeatureFile:
        """Return rows of a slide, from memory if it is kept there."""
        place = self._place(slide, version)
        if self._cache is None or place not in self._cache.kept:
            return self._read_file(slide, rows, version)
        found = self._cache.get(place)
        if found is None:
            found = self._read_file(slide, None, version)
            self._cache.put(place, found)
        return found if rows is None else found.at(rows)

    def _read_file(self, slide: Slide, rows: Tensor | None, version: int = 0) -> FeatureFile:
        try:
            keys = self._keys._replace(features=version_name(version)) if version else self._keys
            found = read_features(slide.file, keys, rows)
        except DataProblems as error:
            # A plain exception, because a worker process passes on only an exception's message.
            raise ValueError(str(error.problems[0]._replace(item=slide.name))) from None
        expected = slide.header.instances if rows is None else len(rows)
        if tuple(found.features.shape) != (expected, self.in_features):
            raise ValueError(f"{slide.file}: slide {slide.name} has changed since it was opened")
        values = at_most_single(found.features)
        bad = first_not_finite(values) if len(values) else None
        if bad is not None:
            row = bad[0] if rows is None else int(rows[bad[0]])
            raise ValueError(str(non_finite_problem(slide, row, bad[1])))
        return found._replace(features=values)

    def check(self, thorough: bool) -> list[Problem]:
        """Return the problems of the slides left out and, if thorough, of classes and features."""
        found = list(self.problems)
        known = {problem.item for problem in found}
        if thorough:
            if not self._names_are_given and not self.targets.apply:
                found += similar_names(self.path, self.class_names, self._table.labels)
            for slide in (slide for bag in self._bags for slide in bag):
                found += [fault for fault in self._values(slide) if slide.name not in known]
        return found

    def _values(self, slide: Slide) -> Iterator[Problem]:
        try:
            values = at_most_single(read_features(slide.file, self._keys).features)
        except DataProblems as error:
            yield error.problems[0]._replace(item=slide.name)
            return
        bad = first_not_finite(values)
        if bad is not None:
            yield non_finite_problem(slide, *bad)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of the table that hold the labels."""
        return self._table.label_columns

    def split_rows(self, split_of: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Yield id, patient, labels and split of each slide in the order of the table.

        Args:
            split_of: (B,) split of each bag.
        """
        table = self._table
        rows = sorted((s.line, split_of[b]) for b, bag in enumerate(self._bags) for s in bag)
        for at, split in rows:
            name = table.slide_ids[at]
            yield name, table.patients[at] if table.patients else name, *table.fields[at], split
