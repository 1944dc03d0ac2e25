"""Reader of the npz layout of the classic multiple-instance data sets.

- ``X`` (N, D): the features of all instances.
- ``bag_index`` (N,): the bag of each instance, 0 to B - 1, never decreasing.
- ``y`` (B,): the class of each bag, or (B, C) zeros and ones for bags with several classes; a file
  without it can only be used for prediction. Times and values: `datamodules.mil.targets.arrays`.
- ``cv_fold`` (R, B), optional: the test fold of each bag in R published repeats.
- ``groups`` (B,), optional: the patient of each bag.
- ``instance_labels`` (N,), optional, for evaluation: 1 for a witness, 0 for another instance, -1
  where unknown.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.mil.npz_checks import find_bag_problems
from datamodules.mil.splits import folds_of
from datamodules.mil.targets.arrays import target_labels, target_names
from datamodules.mil.targets.options import TargetOptions
from structures import BadDataPolicy, DataProblems, MILTask, Problem, settle

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class BagFile(NamedTuple):
    """The bags of a file.

    Attributes:
        path: the file.
        features: (N, D) float32, sorted by bag.
        offsets: (B + 1,) int64; bag b owns rows ``offsets[b]:offsets[b + 1]``.
        labels: (B,) int64 classes, or (B, C) zeros and ones, -1 where unknown; or float64 (B, 2)
            time and event, or (B, T) values, NaN where unknown.
        published_folds: (R, B) int64, or None.
        groups: the patient of each bag, or empty.
        classes: number of classes, or None to derive it from the labels.
        kept: (B,) number of each bag in the file, or None if no bag was left out.
        problems: problems of the bags that were left out.
        instance_labels: (N,) int64, or None.
        targets: what the labels are if they are times, values or grades.
        class_names: names of the grades, or empty to take those of the classes.
    """

    path: Path
    features: npt.NDArray[np.float32]
    offsets: IntArray
    labels: npt.NDArray[Any]
    published_folds: IntArray | None
    groups: tuple[str, ...]
    classes: int | None = None
    kept: IntArray | None = None
    problems: tuple[Problem, ...] = ()
    instance_labels: IntArray | None = None
    targets: TargetOptions = TargetOptions()
    class_names: tuple[str, ...] = ()

    @property
    def in_features(self) -> int:
        """Number of features per instance."""
        return int(self.features.shape[1])

    @property
    def num_classes(self) -> int:
        """Number of classes, at least two; or of bins or values."""
        if self.targets.apply:
            return self.targets.num_classes
        if self.labels.ndim == 2:
            return int(self.labels.shape[1])
        return self.classes or max(2, int(self.labels.max()) + 1)

    @property
    def task(self) -> MILTask:
        """That of the targets; else multilabel with several classes, binary, or multiclass."""
        if self.targets.task is not None:
            return self.targets.task
        if self.labels.ndim == 2:
            return "multilabel"
        return "binary" if self.num_classes == 2 else "multiclass"

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the values of ``regression``, or empty."""
        return self.targets.columns if self.targets.task == "regression" else ()

    @property
    def sizes(self) -> IntArray:
        """(B,) number of instances of each bag."""
        return np.diff(self.offsets)

    @property
    def weights(self) -> None:
        """None: this layout has no weights for a sampler."""
        return None

    @property
    def named_splits(self) -> tuple[str, ...]:
        """Empty: this layout has no named splits."""
        return ()

    def numbers(self) -> list[int]:
        """Return the number of each bag in the file."""
        kept = np.arange(len(self.labels)) if self.kept is None else self.kept
        numbers: list[int] = kept.tolist()
        return numbers

    def rows_of(self, bags: BoolArray) -> BoolArray:
        """Return (N,) True for the instances of the bags marked in (B,)."""
        return np.repeat(bags, np.diff(self.offsets))

    def folds(self, num_folds: int, repeat: int, seed: int) -> IntArray:
        """Return (B,) test folds, see `datamodules.mil.splits.folds_of`."""
        return folds_of(self, num_folds, repeat, seed)

    def without(self, bags: BoolArray) -> BagFile:
        """Return the file without the bags marked in (B,)."""
        keep = ~bags
        sizes, rows, known = np.diff(self.offsets)[keep], self.rows_of(keep), self.instance_labels
        return self._replace(
            features=self.features[rows],
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            labels=self.labels[keep],
            published_folds=None if self.published_folds is None else self.published_folds[:, keep],
            groups=tuple(group for group, k in zip(self.groups, keep, strict=False) if k),
            kept=np.flatnonzero(keep),
            instance_labels=None if known is None else known[rows],
        )


def read_bag_file(
    path: Path,
    classes: int | None = None,
    bad_data: BadDataPolicy = "error",
    task: MILTask | None = None,
    targets: TargetOptions = TargetOptions(),  # noqa: B008
) -> BagFile:
    """Read a file of bags and check it.

    Args:
        path: the npz file.
        classes: number of classes if it is already known, for example from a checkpoint: the file
            may then lack some classes or all labels. None to derive it from the labels.
        bad_data: ``skip`` leaves faulty bags out; a fault of the whole file or a patient in two
            folds is an error even then.
        task: kind of the labels if it is already known.
        targets: names of the values, number of bins, and whether bags need labels.

    Raises:
        DataProblems: the file is missing, unreadable or does not follow the layout.
    """
    path = Path(path)
    content = _load(path)
    targets = targets._replace(task=task)
    targets.check()
    if task == "regression" and targets.target_columns is None:
        targets = targets._replace(target_columns=target_names(content))
    problems = find_bag_problems(path, content, classes, task, targets)
    if any(problem.kind != "bag" or problem.item is None for problem in problems):
        raise DataProblems(problems)
    settle(problems, bad_data)
    bag_index = content["bag_index"].astype(np.int64)
    known = target_labels(content, targets) if targets.apply else content.get("y")
    count = int(bag_index[-1]) + 1 if known is None else len(known)
    faulty = np.zeros(count, dtype=bool)
    faulty[[int(problem.item or 0) for problem in problems]] = True
    labels: npt.NDArray[Any]
    if targets.apply:
        width = len(targets.columns)
        labels = np.full((count, width), np.nan) if known is None else known
    else:
        columns = (classes,) * (task == "multilabel") if known is None else known.shape[1:]
        labels = np.full((count, *columns), -1, dtype=np.int64)
        if known is not None:
            labels[~faulty] = known[~faulty]
    bags = BagFile(
        path=path,
        features=content["X"].astype(np.float32),
        offsets=np.searchsorted(bag_index, np.arange(count + 1)).astype(np.int64),
        labels=labels,
        published_folds=_optional(content, "cv_fold"),
        groups=tuple(str(g) for g in content["groups"]) if "groups" in content else (),
        classes=classes,
        problems=tuple(problems),
        instance_labels=_optional(content, "instance_labels"),
        targets=targets if targets.apply or task == "ordinal" else TargetOptions(),
    )
    if faulty.all():
        raise DataProblems([*problems, Problem(path, None, None, "no usable bag", "see above")])
    return bags.without(faulty) if faulty.any() else bags


def _optional(content: Mapping[str, npt.NDArray[Any]], name: str) -> IntArray | None:
    return content[name].astype(np.int64) if name in content else None


# Errors that numpy and the zip reader raise for corrupt files.
_BROKEN = (
    ValueError, OSError, EOFError, AttributeError, KeyError, NotImplementedError, MemoryError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError,
)  # fmt: skip


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise DataProblems(
            [Problem(path, None, None, "no such file", "give the npz file of the bags")]
        )
    try:
        with path.open("rb") as file:
            if file.read(4) not in (b"PK\x03\x04", b"\x93NUM"):  # numpy would try to unpickle it
                raise ValueError("it is not an archive of arrays")
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single npy array")
        with archive:
            content = {name: archive[name] for name in archive.files}
        strangers = sorted(k for k, v in content.items() if not isinstance(v, np.ndarray))
        if strangers:
            raise ValueError(f"{strangers[0]} is not an array")
        return content
    except _BROKEN as error:
        reason = f"not a readable npz file ({error})"
        remedy = "write it with numpy.savez and plain number arrays"
        raise DataProblems([Problem(path, None, None, reason, remedy)]) from None
