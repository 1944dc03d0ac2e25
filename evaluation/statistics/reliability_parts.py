"""What belongs to a reliability diagram: the consistency band and the parts of the Brier score.

- Bröcker & Smith, "Increasing the Reliability of Reliability Diagrams" (Weather and Forecasting
  2007): how far the share of hits of each bin may be from its mean probability by chance alone, if
  the probabilities are right. Forecasts are drawn with replacement and their outcomes from them.
- Murphy, "A New Vector Partition of the Probability Score" (1973), and Stephenson et al., "Two
  Extra Components in the Brier Score Decomposition" (Weather and Forecasting 2008) for bins that
  hold unequal probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Band(NamedTuple):
    """Where the share of hits of each of K bins lies if the probabilities are right.

    Attributes:
        low: (K,) in [0, 1]; NaN for an empty bin.
        high: (K,) in [0, 1]; NaN for an empty bin.
        level: coverage of each bin on its own, in (0, 1).
        draws: number of draws.
    """

    low: FloatArray
    high: FloatArray
    level: float
    draws: int

    def outside(self, observed: FloatArray) -> int:
        """Return how many bins that are not empty have a share outside of the band.

        Args:
            observed: (K,) shares of hits.
        """
        return int(((observed < self.low) | (observed > self.high)).sum())

    def record(self, observed: FloatArray) -> dict[str, Any]:
        """Return the entries of a JSON record.

        Args:
            observed: see `outside`.
        """
        return {
            "level": self.level,
            "draws": self.draws,
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "outside": self.outside(observed),
        }


def consistency_band(
    size: IntArray, predicted: FloatArray, *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> Band:
    """Return the consistency band of a reliability diagram.

    A forecast drawn with replacement is in a bin with the share of the bin, and its outcome is
    then true with the mean probability of the bin. So the numbers in the bins are multinomial and
    the hits among them binomial, which are drawn instead of single forecasts (A824).

    Args:
        size: (K,) predictions in each bin, at least one in all.
        predicted: (K,) mean probability of each bin; not read for an empty one.
        level: coverage, from the quantile (1 - level) / 2 to (1 + level) / 2.
        draws: number of draws; a bin that one leaves empty is drawn less often.
        seed: seed of the draws.
    """
    random = np.random.default_rng(seed)
    drawn = random.multinomial(size.sum(), size / size.sum(), size=draws)
    chance = np.clip(np.where(size > 0, predicted, 0.0), 0.0, 1.0)  # a mean of ones may be above 1
    hits = random.binomial(drawn, chance)
    low, high = np.full(len(size), np.nan), np.full(len(size), np.nan)
    ends = ((1 - level) / 2, (1 + level) / 2)
    for k in np.flatnonzero(size):
        held = drawn[:, k] > 0
        if held.any():
            low[k], high[k] = np.quantile(hits[held, k] / drawn[held, k], ends)
    return Band(low, high, level, draws)


def band_note(band: Mapping[str, Any]) -> str:
    """Return a sentence on the bins outside of the band.

    Args:
        band: see `Band.record`.
    """
    held = int(np.isfinite(np.array(band["low"], dtype=np.float64)).sum())
    level = f"{100 * band['level']:g} %"
    return (
        f"{band['outside']} of {held} bins with predictions lie outside of the {level} band of "
        "right probabilities"
    )


class BrierParts(NamedTuple):
    """Brier score = reliability - resolution + uncertainty, exactly.

    Attributes:
        reliability: mean squared gap of mean probability and share of hits of the bins; 0 is best.
        resolution: how far the shares of hits of the bins are from that of all, and how well
            probabilities separate within bins; high is best. Murphy's is resolution + within_bin.
        uncertainty: Brier score of the share of hits of all as the only probability.
        within_bin: variance of the probabilities within bins less twice their covariance with
            what is true there; 0 where all probabilities of a bin are equal.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float


def brier_parts(probabilities: FloatArray, true: FloatArray, places: IntArray) -> BrierParts:
    """Return the parts of the mean of (p - y)^2.

    Args:
        probabilities: (P,) in [0, 1], at least one.
        true: (P,) 0 or 1.
        places: (P,) bins.
    """
    _, bins = np.unique(places, return_inverse=True)
    size = np.bincount(bins)
    mean = np.bincount(bins, probabilities) / size
    share = np.bincount(bins, true) / size
    of_all = float(true.mean())
    apart = probabilities - mean[bins]
    within = float((apart**2 - 2 * apart * (true - share[bins])).mean())
    weight = size / size.sum()
    return BrierParts(
        reliability=float(weight @ (mean - share) ** 2),
        resolution=float(weight @ (share - of_all) ** 2) - within,  # A823
        uncertainty=of_all * (1 - of_all),
        within_bin=within,
    )
