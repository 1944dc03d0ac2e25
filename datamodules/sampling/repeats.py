"""Repeat-factor sampling (LVIS, Gupta et al. 2019, arXiv 1908.03195): rare classes more often.

With f_c the share of the images that have an object of class c and a threshold t,

    r_c = max(1, sqrt(t / f_c)),    r_i = max of r_c over the classes of image i

and an epoch has image i r_i times on average. An image without objects has factor 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ONE = 2**20  # factors are whole multiples of 1 / _ONE, so that their sum has no rounding error


def repeat_factors(images: Ints, labels: Ints, count: int, threshold: float) -> Floats:
    """Return the repeat factor of each image.

    Args:
        images: (M,) in [0, count), the image of each object.
        labels: (M,) class of each object, not negative.
        count: n, number of images.
        threshold: t, the share of images below which a class is repeated.

    Returns:
        (n,), at least 1.

    >>> repeat_factors(np.array([0, 1, 2, 3]), np.array([0, 0, 0, 1]), 4, 1.0).round(3).tolist()
    [1.155, 1.155, 1.155, 2.0]
    """
    factors = np.ones(count)
    if labels.size:
        classes = int(labels.max()) + 1
        pairs = np.unique(images * classes + labels)  # an image counts once for a class
        owners, found = np.divmod(pairs, classes)
        share = np.bincount(found, minlength=classes)[found] / count
        np.maximum.at(factors, owners, np.sqrt(threshold / share))
    return factors


class Repeats:
    """Draws how many times each item is in an epoch.

    An item with factor r is drawn floor(r) or ceil(r) times, r times on average, and the sum over
    all items differs by less than 1 between epochs. LVIS rounds every factor by itself, so that
    epochs differ in length; here the fractional parts are rounded together, by systematic sampling
    in a random order (A330).

    Args:
        factors: average number of times of each item, at least 1.

    Raises:
        ValueError: a factor is below 1 or not finite.
    """

    def __init__(self, factors: Sequence[float]) -> None:
        given = np.asarray(factors, dtype=np.float64)
        if not bool(np.all((given >= 1) & np.isfinite(given))):
            raise ValueError("repeat factors must be finite and at least 1")
        self._parts = np.rint(given * _ONE).astype(np.int64)

    @property
    def total(self) -> int:
        """Number of items that every epoch has; a draw may have one more."""
        return int(self._parts.sum()) // _ONE

    def draw(self, rng: np.random.Generator) -> Ints:
        """Return the positions of the items of an epoch, ascending, each as often as it occurs."""
        order = rng.permutation(self._parts.size)
        ends = (self._parts[order].cumsum() + rng.integers(_ONE)) // _ONE
        times = np.empty_like(ends)
        times[order] = np.diff(ends, prepend=0)
        return np.repeat(np.arange(times.size), times)


def occurrences(items: Ints) -> Ints:
    """Return how many times each entry has occurred before in the sequence.

    >>> occurrences(np.array([5, 3, 5, 5, 3])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(items, kind="stable")
    ordered = items[order]
    starts = np.searchsorted(ordered, ordered)
    found = np.empty_like(items)
    found[order] = np.arange(items.size) - starts
    return found
