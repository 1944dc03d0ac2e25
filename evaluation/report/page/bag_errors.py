"""How far predictions of times and values are off, bag by bag, for the lists of the page."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.targets.bags import TargetPredictions
from structures.tasks import TIME_TASKS

FloatArray = npt.NDArray[np.float64]


class BagErrors(NamedTuple):
    """Errors of B bags.

    Attributes:
        title: what a list of the worst bags is called.
        column: heading of the column with ``told``.
        sizes: (B,) not negative, larger is worse; NaN where the target is unknown.
        told: of each bag, as text.
        note: how the list is ordered.
    """

    title: str
    column: str
    sizes: FloatArray
    told: tuple[str, ...]
    note: str


def bag_errors(bags: TargetPredictions) -> BagErrors:
    """Return the errors of predicted times or values.

    That of values is the largest of the bag's targets, each in units of its standard deviation over
    the bags; that of times the number of comparable pairs (Harrell et al. 1996, see
    `evaluation.targets.concordance`) in which the bag is on the wrong side: it has the lower risk
    and the earlier event, or the other way round (A850).
    """
    if bags.task in TIME_TASKS:
        time, event = bags.labels.T
        wrong, pairs = pairs_of_bags(time, event, bags.predictions)
        told = tuple(f"{w} of {n}" for w, n in zip(wrong, pairs, strict=True))
        sizes = np.where(bags.known, wrong, np.nan)
        title, note = (
            "Bags in the wrong order most often",
            "Of the pairs that the C-index compares.",
        )
        return BagErrors(title, "pairs in the wrong order", sizes, told, note)
    errors = bags.predictions - bags.labels
    spread = np.nanstd(np.where(bags.known[:, None], bags.labels, np.nan), axis=0)
    scaled = np.abs(errors) / np.where(spread > 0, spread, 1.0)
    sizes = np.nan_to_num(scaled, nan=-1.0).max(axis=1)
    told = tuple(", ".join("" if np.isnan(e) else f"{e:+.4g}" for e in row) for row in errors)
    note = "By the largest error of a bag, in standard deviations of the target."
    return BagErrors("Largest errors", "error", np.where(sizes < 0, np.nan, sizes), told, note)


def pairs_of_bags(
    time: FloatArray, event: FloatArray, risk: FloatArray
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count the comparable pairs that each bag is in.

    Args:
        time: (B,) times, NaN where unknown.
        event: (B,) 1 for an event, 0 for censored, NaN where unknown.
        risk: (B,) predicted risks.

    Returns:
        (B,) pairs in the wrong order, and (B,) all of them. Equal risks are not wrong.
    """
    wrong, pairs = (np.zeros(len(time), dtype=np.int64) for _ in range(2))
    for n in np.flatnonzero(event == 1):
        later = (time > time[n]) | ((time == time[n]) & (event == 0))
        against = later & (risk > risk[n])
        pairs += later
        wrong += against
        pairs[n] += later.sum()
        wrong[n] += against.sum()
    return wrong, pairs
