"""Training, validation and test splits of bags, and the file that records them."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from datamodules.mil.folds import classes_in, hold_out, stratified_folds
from datamodules.mil.targets.strata import stratum_labels, unlabelled
from formats.files import atomic_write, file_digest
from structures import MILTask, Problem
from structures.tasks import has_classes

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
BagSplit = Literal["train", "val", "test", "predict"]

NAMES: tuple[BagSplit, ...] = ("train", "val", "test")


class Divisible(Protocol):
    """Interface of a set of B bags that can be divided into splits."""

    @property
    def path(self) -> Path:
        """The file, for error messages."""
        ...

    @property
    def labels(self) -> npt.NDArray[Any]:
        """(B,) classes or (B, C) zeros and ones, negative where unknown; or times or values."""
        ...

    @property
    def task(self) -> MILTask:
        """What the labels are."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """The patient of each bag, or empty."""
        ...

    @property
    def published_folds(self) -> IntArray | None:
        """(R, B) test fold of each bag in R repeats, or None."""
        ...

    @property
    def named_splits(self) -> tuple[str, ...]:
        """``train``, ``val`` or ``test`` for each bag, or empty."""
        ...


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """Options of dividing bags into splits.

    Attributes:
        fold: number of the test fold; None to hold out ``test_fraction`` instead.
        repeat: repeat of the cross-validation to which ``fold`` belongs.
        num_folds: number of folds to draw if the file has none.
        test_fraction: share of test bags if ``fold`` is None.
        val_fraction: share of validation bags among the bags that are not test bags.
        seed: seed of the random choices.
    """

    fold: int | None = None
    repeat: int = 0
    num_folds: int = 10
    test_fraction: float = 0.2
    val_fraction: float = 0.2
    seed: int = 0


def folds_of(bags: Divisible, num_folds: int, repeat: int, seed: int) -> IntArray:
    """Return the (B,) test fold of each bag: the published one if the file has folds.

    Args:
        bags: the bags.
        num_folds: number of folds to draw if the file has none.
        repeat: repeat of the cross-validation.
        seed: seed of the folds that are drawn.

    Raises:
        ValueError: the repeat does not exist, the folds of the file are fewer than two or not
            consecutive, or there are too few bags.
    """
    if bags.published_folds is None:
        kinds = stratum_labels(bags.labels, bags.task, bags.groups)
        return stratified_folds(kinds, num_folds, seed, repeat, bags.groups)
    if not 0 <= repeat < len(bags.published_folds):
        raise ValueError(
            f"{bags.path}: the published folds have {len(bags.published_folds)} repeats, so repeat "
            f"must be 0 to {len(bags.published_folds) - 1}, got {repeat}"
        )
    published: IntArray = bags.published_folds[repeat]
    used = np.unique(published)
    if used.size < 2 or (used != np.arange(used.size)).any():
        raise ValueError(
            f"{bags.path}: the folds are {used[:10].tolist()}; number at least two folds from 0 "
            "without a gap"
        )
    return published


def choose_splits(bags: Divisible, options: SplitOptions) -> dict[BagSplit, BoolArray]:
    """Return (B,) masks of the training, validation, test and predict splits (predict: all bags).

    Test bags are the bags marked ``test`` in the file, or one fold, or a stratified share.
    Validation bags are the bags marked ``val``; if there are none, a stratified share of the
    remaining bags. With patients, whole patients are assigned. Bags of a file without labels can
    only be used for prediction.

    Raises:
        ValueError: a fold or share does not exist, or ``fold`` is given for a file with named
            splits.
    """
    everything = np.ones(len(bags.labels), dtype=bool)
    if unlabelled(bags.labels).all():
        nothing = ~everything
        return {"train": nothing, "val": nothing, "test": nothing, "predict": everything}
    named = np.asarray(bags.named_splits)
    test = _test_bags(bags, options)
    if named.size and options.fold is None and (named == "val").any():
        val = named == "val"
    else:  # A56: a file with only training and test bags still gets validation bags
        rest = np.flatnonzero(~test)
        groups = [bags.groups[b] for b in rest] if bags.groups else ()
        fold = 0 if options.fold is None else options.fold + 1
        key = (options.seed, 1, options.repeat, fold)
        val = np.zeros_like(test)
        kinds = stratum_labels(bags.labels[rest], bags.task, groups)
        val[rest] = hold_out(kinds, options.val_fraction, key, groups)
    train = ~test & ~val
    lost = []
    if has_classes(bags.task):
        lost = sorted(classes_in(bags.labels) - classes_in(bags.labels[train]))
    if lost:
        warnings.warn(
            f"{bags.path}: no training bag has class {lost}; change fold, test_fraction or "
            "val_fraction before you train on it",
            stacklevel=3,
        )
    return {"train": train, "val": val, "test": test, "predict": everything}


def _test_bags(bags: Divisible, options: SplitOptions) -> BoolArray:
    if options.fold is None:
        if bags.named_splits:
            named: BoolArray = np.asarray(bags.named_splits) == "test"
            return named
        key = (options.seed, 0, 0)
        kinds = stratum_labels(bags.labels, bags.task, bags.groups)
        return hold_out(kinds, options.test_fraction, key, bags.groups)
    if bags.named_splits and bags.published_folds is None:
        raise ValueError(
            f"{bags.path}: the file names the splits, so fold {options.fold} has no effect; leave "
            "fold out or remove the column"
        )
    folds = folds_of(bags, options.num_folds, options.repeat, options.seed)
    count = int(folds.max()) + 1
    if not 0 <= options.fold < count:
        raise ValueError(f"{bags.path}: folds are 0 to {count - 1}, got {options.fold}")
    if bags.published_folds is not None and options.num_folds != count:
        warnings.warn(
            f"{bags.path} has {count} published folds; num_folds={options.num_folds} is ignored",
            stacklevel=4,
        )
    chosen: BoolArray = folds == options.fold
    return chosen


def divided_patients(
    path: Path, groups: Sequence[str], parts: Sequence[object], kind: str
) -> Iterator[Problem]:
    """Yield a problem for each patient whose bags are in more than one split or fold.

    Args:
        path: the file, for the message.
        groups: (B,) the patient of each bag, or empty.
        parts: (B,) the split or fold of each bag.
        kind: ``split`` or ``fold``, for the message.
    """
    seen: dict[str, list[str]] = {}
    for group, part in zip(groups, parts, strict=bool(groups)):
        names = seen.setdefault(group, [])
        if str(part) not in names:
            names.append(str(part))
    for group, names in seen.items():
        if len(names) > 1:
            yield Problem(
                path, group, None, f"bags in {kind}s {', '.join(names)}",
                f"put all bags of a patient into one {kind}", kind="patient",
            )  # fmt: skip


def write_splits(
    path: Path,
    rows: Sequence[Sequence[object]],
    first: str,
    labels: Sequence[str] = ("label",),
) -> str:
    """Write ``first,patient_id,label,split`` atomically.

    Args:
        path: the CSV; missing parents are created.
        rows: (name, patient, label, split) of each bag.
        first: name of the first column, ``slide_id`` if the file can be used as a table.
        labels: names of the columns of labels.

    Returns:
        The file's SHA-256 in hexadecimal digits.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([first, "patient_id", *labels, "split"])
    writer.writerows(rows)
    content = text.getvalue().encode()
    with atomic_write(path) as file:
        file.write(content)
    return file_digest(path).hex()
