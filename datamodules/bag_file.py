"""Reading and checking the npz layout of the classic multiple-instance sets.

- ``X`` (N, D): the features of all instances.
- ``bag_index`` (N,): the bag of each instance, 0 to B - 1, never decreasing.
- ``y`` (B,): the class of each bag.
- ``cv_fold`` (R, B), optional: the test fold of each bag in R published repeats.
- ``groups`` (B,), optional: the patient of each bag.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.folds import stratified_folds

IntArray = npt.NDArray[np.int64]
_REQUIRED = {"X": 2, "bag_index": 1, "y": 1}
_SHOWN = 5  # offenders named per problem


class BagFile(NamedTuple):
    """The bags of a file.

    Attributes:
        path: the file.
        features: (N, D) float32, bag after bag.
        offsets: (B + 1,) int64; bag b owns rows ``offsets[b]:offsets[b + 1]``.
        labels: (B,) int64 classes.
        published_folds: (R, B) int64, or None.
        groups: the patient of each bag, or empty.
    """

    path: Path
    features: npt.NDArray[np.float32]
    offsets: IntArray
    labels: IntArray
    published_folds: IntArray | None
    groups: tuple[str, ...]

    def rows_of(self, bags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return (N,) True for the instances of the bags marked in (B,)."""
        return np.repeat(bags, np.diff(self.offsets))

    def folds(self, num_folds: int, repeat: int, seed: int) -> IntArray:
        """Return (B,) test fold of each bag: the published one where the file has folds.

        Args:
            num_folds: folds to make where the file has none.
            repeat: which repeat of cross-validation.
            seed: of the folds to make.

        Raises:
            ValueError: the file's folds have no such repeat, or there are too few bags.
        """
        if self.published_folds is None:
            return stratified_folds(self.labels, num_folds, seed, repeat, self.groups)
        if not 0 <= repeat < len(self.published_folds):
            raise ValueError(
                f"{self.path}: cv_fold has {len(self.published_folds)} repeats, so repeat is 0 to "
                f"{len(self.published_folds) - 1}, got {repeat}"
            )
        published: IntArray = self.published_folds[repeat]
        return published


def read_bag_file(path: Path) -> BagFile:
    """Read a file of bags and check it.

    Raises:
        ValueError: the file is missing, unreadable or breaks the layout; the message lists every
            problem with bag numbers and remedies.
    """
    path = Path(path)
    content = _load(path)
    problems = list(_missing(content)) or list(_problems(content))
    if problems:
        raise ValueError("\n  - ".join([f"{path}: {len(problems)} problem(s)", *problems]))
    labels = content["y"].astype(np.int64)
    bag_index = content["bag_index"].astype(np.int64)
    folds = content.get("cv_fold")
    return BagFile(
        path=path,
        features=content["X"].astype(np.float32),
        offsets=np.searchsorted(bag_index, np.arange(labels.size + 1)).astype(np.int64),
        labels=labels,
        published_folds=None if folds is None else folds.astype(np.int64),
        groups=tuple(str(g) for g in content["groups"]) if "groups" in content else (),
    )


# What numpy and the zip reader raise for broken bytes.
_BROKEN = (
    ValueError, OSError, EOFError, AttributeError, KeyError, NotImplementedError, MemoryError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError,
)  # fmt: skip


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the npz file of the bags")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except _BROKEN as error:
        raise ValueError(
            f"{path}: not a readable npz file ({error}); write it with numpy.savez and plain "
            "number arrays"
        ) from None


def _missing(content: Mapping[str, npt.NDArray[Any]]) -> Iterator[str]:
    for name, axes in _REQUIRED.items():
        if name not in content:
            yield f"array {name} is missing; the file has {sorted(content)}"
        elif content[name].ndim != axes or content[name].size == 0:
            yield f"{name} must have {axes} axes and be non-empty, got {content[name].shape}"
        elif content[name].dtype.kind not in ("fiu" if name == "X" else "iufb"):
            yield f"{name} must hold numbers, got {content[name].dtype}"


def _problems(content: Mapping[str, npt.NDArray[Any]]) -> Iterator[str]:
    features, bag_index, labels = content["X"], content["bag_index"], content["y"]
    if len(features) != len(bag_index):
        yield (
            f"X has {len(features)} instances but bag_index {len(bag_index)} entries; "
            "both need one an instance"
        )
    else:
        yield from _not_finite(features, bag_index)
    yield from _bag_order(bag_index, labels.size)
    yield from _label_problems(labels)
    if "cv_fold" in content:
        yield from _fold_problems(content["cv_fold"], labels.size)
    if "groups" in content and content["groups"].shape != labels.shape:
        yield f"groups must name each of {labels.size} bags, got shape {content['groups'].shape}"


def _not_finite(features: npt.NDArray[Any], bag_index: npt.NDArray[Any]) -> Iterator[str]:
    rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if rows.size:
        bags = np.unique(bag_index[rows])
        yield (
            f"bags {_some(bags)} hold NaN or infinite features (first: row {rows[0]}, feature "
            f"{np.flatnonzero(~np.isfinite(features[rows[0]]))[0]}); impute them or drop the rows"
        )


def _bag_order(bag_index: npt.NDArray[Any], bags: int) -> Iterator[str]:
    if (bag_index != np.floor(bag_index)).any():
        yield "bag_index must hold whole numbers"
        return
    falls = np.flatnonzero(np.diff(bag_index) < 0)
    if falls.size:
        row = falls[0] + 1
        yield (
            f"bag_index falls from {bag_index[row - 1]} to {bag_index[row]} at row {row}; sort "
            "the instances by bag"
        )
    present = np.unique(bag_index)
    outside = present[(present < 0) | (present >= bags)]
    if outside.size:
        yield f"bag_index names bags {_some(outside)}, but y has bags 0 to {bags - 1}"
    empty = np.setdiff1d(np.arange(bags), present)
    if empty.size:
        yield f"bags {_some(empty)} have no instances; remove them and renumber the rest"


def _label_problems(labels: npt.NDArray[Any]) -> Iterator[str]:
    bad = np.flatnonzero((labels < 0) | (labels != np.floor(labels)))
    if bad.size:
        yield (
            f"bags {_some(bad)} have labels {_some(np.unique(labels[bad]))}; use classes "
            "0, 1, ... (0 and 1 for negative and positive)"
        )
        return
    classes = np.unique(labels)
    absent = np.setdiff1d(np.arange(classes[-1] + 1), classes)
    if absent.size and classes[-1] > 1:
        yield f"no bag has class {_some(absent)} of 0 to {classes[-1]}; renumber the classes"


def _fold_problems(folds: npt.NDArray[Any], bags: int) -> Iterator[str]:
    if folds.ndim != 2 or folds.shape[1] != bags or folds.dtype.kind not in "iu":
        yield f"cv_fold must be integers (repeats, {bags}), got {folds.shape} {folds.dtype}"
        return
    for repeat, row in enumerate(folds):
        used = np.unique(row)
        if used.size < 2 or (used != np.arange(used.size)).any():
            yield (
                f"repeat {repeat} of cv_fold has folds {_some(used)}; number at least two folds "
                "from 0 without a gap"
            )


def _some(values: npt.NDArray[Any]) -> str:
    shown = ", ".join(str(v) for v in values[:_SHOWN].tolist())
    return shown if values.size <= _SHOWN else f"{shown}, ... ({values.size} in all)"
