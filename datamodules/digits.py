"""Handwritten digits used by the embedded data sets, with a fixed split.

Source: optical recognition of handwritten digits (UCI; Alpaydin and Kaynak 1998) as distributed
with scikit-learn: 1 797 images of 8 x 8 pixels with values 0 to 16.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

DigitSplit = Literal["train", "val", "test"]

_SIZES = {"train": 1200, "val": 197, "test": 400}
_SPLIT_SEED = 0


class SourceDigits(NamedTuple):
    """The digits of a split: images (n, 8, 8) float32 in [0, 16], labels (n,), ids (n,) int64.

    ``ids`` are the ascending row numbers in scikit-learn's table.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]


def _shares(counts: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Divide ``total`` among classes in proportion to ``counts`` by the largest remainder."""
    exact = counts * total / counts.sum()
    shares = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - shares), kind="stable")
    shares[order[: total - shares.sum()]] += 1
    return np.asarray(shares)


@functools.cache
def _tables() -> dict[str, SourceDigits]:
    from sklearn.datasets import load_digits  # takes a second to import

    table = load_digits()
    images = table.images.astype(np.float32)
    labels = table.target.astype(np.int64)
    counts = np.bincount(labels)
    rng = np.random.default_rng(_SPLIT_SEED)
    rows = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    ids: dict[str, npt.NDArray[np.int64]] = {}
    used = np.zeros(10, dtype=np.int64)
    for split in ("train", "val"):
        shares = _shares(counts, _SIZES[split])
        parts = [row[a : a + n] for row, a, n in zip(rows, used, shares, strict=True)]
        ids[split] = np.sort(np.concatenate(parts))
        used = used + shares
    ids["test"] = np.sort(np.concatenate([row[a:] for row, a in zip(rows, used, strict=True)]))
    tables = {s: SourceDigits(images[i], labels[i], i) for s, i in ids.items()}
    for digits in tables.values():
        for array in digits:
            array.setflags(write=False)  # all callers share one copy
    return tables


def source_digits(split: DigitSplit) -> SourceDigits:
    """Return the digits of a split; no digit is in two splits.

    The 1 797 digits are divided into 1 200, 197 and 400, stratified by class. The division is
    frozen: scenes and bags of a split use only its own digits. The arrays are read-only.

    Raises:
        ValueError: the split is not ``train``, ``val`` or ``test``.
    """
    if split not in _SIZES:
        raise ValueError(f"digits have the splits {sorted(_SIZES)}, got {split!r}")
    return _tables()[split]
