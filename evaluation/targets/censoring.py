"""Curves of times that are partly censored: Kaplan-Meier, censoring, Breslow, interpolation.

Times are float64 in the user's unit. At one time events come before censoring: a bag that is
censored at s was still at risk at the events of s.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_ROUNDING = 1e-12  # a curve that is a product of rounded shares may miss one half by this much


class StepCurve(NamedTuple):
    """A right-continuous step function that is 1 before its first time.

    Attributes:
        times: (U,) ascending.
        values: (U,) value from each time on; after the last time the last value is kept.
    """

    times: FloatArray
    values: FloatArray

    def at(self, times: npt.ArrayLike) -> FloatArray:
        """Return the value at each time, in the shape of ``times``."""
        place = np.searchsorted(self.times, np.asarray(times, dtype=np.float64), side="right")
        found: FloatArray = np.concatenate(([1.0], self.values))[place]
        return found


class LifeTable(NamedTuple):
    """Bags by distinct time.

    Attributes:
        times: (U,) distinct times, ascending.
        at_risk: (U,) bags whose time is at least this one.
        events: (U,) bags with an event at this time.
        censored: (U,) bags that are censored at this time.
    """

    times: FloatArray
    at_risk: IntArray
    events: IntArray
    censored: IntArray


class KaplanMeier(NamedTuple):
    """Kaplan-Meier curve of survival with pointwise intervals.

    Attributes:
        table: the bags by distinct time.
        survival: (U,) share that survives each time.
        low: (U,) lower end of the interval; NaN where the curve is 0.
        high: (U,) upper end.
    """

    table: LifeTable
    survival: FloatArray
    low: FloatArray
    high: FloatArray

    @property
    def curve(self) -> StepCurve:
        """The curve as a step function."""
        return StepCurve(self.table.times, self.survival)

    def interval_at(self, times: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return the interval at each time."""
        known = self.table.times
        return StepCurve(known, self.low).at(times), StepCurve(known, self.high).at(times)

    def median(self) -> float:
        """Return the first time at which at most one half survives; NaN if more do to the end."""
        reached = np.flatnonzero(self.survival <= 0.5 + _ROUNDING)
        return float(self.table.times[reached[0]]) if reached.size else float("nan")


def life_table(time: npt.ArrayLike, event: npt.ArrayLike) -> LifeTable:
    """Count the bags at each distinct time.

    Args:
        time: (n,) times.
        event: (n,) True for an event, False for a censored bag.
    """
    happened = np.asarray(event, dtype=bool)
    times, place = np.unique(np.asarray(time, dtype=np.float64), return_inverse=True)
    everyone = np.bincount(place, minlength=times.size)
    events = np.bincount(place[happened], minlength=times.size)
    at_risk = np.cumsum(everyone[::-1])[::-1]
    return LifeTable(times, at_risk, events, everyone - events)


def kaplan_meier(time: npt.ArrayLike, event: npt.ArrayLike, level: float = 0.95) -> KaplanMeier:
    """Return the Kaplan-Meier curve with pointwise intervals.

    S(t) = prod_{s <= t} (1 - m_s / n_s) (Kaplan and Meier 1958). The interval is symmetric on the
    scale log(-log S), with Greenwood's variance V(t) = sum_{s <= t} m_s / (n_s (n_s - m_s)):
    S^exp(-+ z sqrt(V) / log S) (Kalbfleisch and Prentice 2002, section 1.4), which stays in [0, 1].
    Before the first event it is [1, 1] (A720).

    Args:
        time: (n,) times.
        event: (n,) True for an event.
        level: coverage of the intervals, in (0, 1).
    """
    table = life_table(time, event)
    survival: FloatArray = np.cumprod(1 - table.events / table.at_risk, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(table.events / (table.at_risk * (table.at_risk - table.events)))
        spread = _normal_quantile((1 + level) / 2) * np.sqrt(variance) / np.log(survival)
        low, high = survival ** np.exp(-spread), survival ** np.exp(spread)
    untouched = np.cumsum(table.events) == 0
    low[untouched], high[untouched] = 1.0, 1.0
    low[survival == 0], high[survival == 0] = np.nan, np.nan
    return KaplanMeier(table, survival, low, high)


def _normal_quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)


def censoring_curve(time: npt.ArrayLike, event: npt.ArrayLike) -> StepCurve:
    """Return G, the Kaplan-Meier curve of censoring.

    G(t) = prod_{s <= t} (1 - c_s / (n_s - m_s)): the events of a time leave before the bags that
    are censored at it. Events are weighted by 1 / G at their own time (A726). After the last time
    G keeps its value, which is 0 if the largest time is censored.

    Args:
        time: (n,) times, of the training bags.
        event: (n,) True for an event.
    """
    table = life_table(time, event)
    staying = table.at_risk - table.events
    factor = np.ones(len(table.times))
    np.divide(staying - table.censored, staying, out=factor, where=staying > 0)
    return StepCurve(table.times, np.cumprod(factor, dtype=np.float64))


def numbers_at_risk(time: npt.ArrayLike, at: npt.ArrayLike) -> IntArray:
    """Return how many bags have a time of at least each of the given ones, censored ones too.

    Args:
        time: (n,) times.
        at: (T,) times.
    """
    known = np.sort(np.asarray(time, dtype=np.float64))
    before = np.searchsorted(known, np.asarray(at, dtype=np.float64), side="left")
    return (known.size - before).astype(np.int64)


def weighted_survival(
    time: FloatArray, event: BoolArray, weights: FloatArray, at: FloatArray
) -> FloatArray:
    """Return the Kaplan-Meier curve of weighted samples at some times.

    Args:
        time: (n,) times.
        event: (n,) True for an event.
        weights: (R, n) how often each sample contains each bag.
        at: (T,) times.

    Returns:
        (R, T) share that survives; 1 where a sample has nobody at risk.
    """
    order = np.argsort(time, kind="stable")
    times, first = np.unique(time[order], return_index=True)
    sample = weights[:, order]
    events = np.add.reduceat(sample * event[order], first, axis=1)
    at_risk = np.cumsum(sample[:, ::-1], axis=1)[:, ::-1][:, first]
    dying = np.zeros_like(events)
    np.divide(events, at_risk, out=dying, where=at_risk > 0)
    curves = np.concatenate((np.ones((len(weights), 1)), np.cumprod(1 - dying, axis=1)), axis=1)
    found: FloatArray = curves[:, np.searchsorted(times, at, side="right")]
    return found


class Breslow(NamedTuple):
    """Breslow's cumulative baseline hazard H0, kept in logs.

    Attributes:
        times: (U,) distinct times of events, ascending.
        log_hazard: (U,) log H0 from each time on; before the first time H0 is 0.
    """

    times: FloatArray
    log_hazard: FloatArray

    def survival(self, log_risk: npt.ArrayLike, at: npt.ArrayLike) -> FloatArray:
        """Return S_i(t) = exp(-H0(t) exp(eta_i)).

        Args:
            log_risk: (n,) log-risks eta.
            at: (T,) times.

        Returns:
            (n, T) probabilities to survive.
        """
        place = np.searchsorted(self.times, np.asarray(at, dtype=np.float64), side="right")
        hazard = np.concatenate(([-np.inf], self.log_hazard))[place]
        eta = np.asarray(log_risk, dtype=np.float64)
        with np.errstate(over="ignore"):  # exp of a huge hazard is infinite, S is 0
            found: FloatArray = np.exp(-np.exp(eta[:, None] + hazard))
        return found


def breslow(time: npt.ArrayLike, event: npt.ArrayLike, log_risk: npt.ArrayLike) -> Breslow:
    """Return Breslow's estimate H0(t) = sum_{s <= t} m_s / A_s of the baseline hazard.

    A_s is the sum of exp(eta_j) over the bags with t_j >= s (Breslow 1972), also where the
    log-risks were trained by Efron's likelihood. All sums are taken in logs, so that log-risks of
    any size are allowed.

    Args:
        time: (n,) times, of the training bags.
        event: (n,) True for an event.
        log_risk: (n,) log-risks eta.
    """
    table = life_table(time, event)
    times = np.asarray(time, dtype=np.float64)
    order = np.argsort(-times, kind="stable")
    summed = np.logaddexp.accumulate(np.asarray(log_risk, dtype=np.float64)[order])
    happened = table.events > 0
    # The last of the bags, in descending order, whose time is at least s.
    last = table.at_risk[happened] - 1
    steps = np.log(table.events[happened]) - summed[last]
    return Breslow(table.times[happened], np.logaddexp.accumulate(steps) if steps.size else steps)


def interpolated(survival: npt.ArrayLike, edges: npt.ArrayLike, at: npt.ArrayLike) -> FloatArray:
    """Return survival between the edges of time bins.

    S is linear from S(0) = 1 through the edges and constant after the last one (A729).

    Args:
        survival: (n, K) probability to survive each edge.
        edges: (K,) upper edges e_1 to e_K of the bins, ascending and above 0.
        at: (T,) times, at least 0.

    Returns:
        (n, T).
    """
    chances, known = np.asarray(survival, dtype=np.float64), np.asarray(edges, dtype=np.float64)
    grid = np.concatenate(([0.0], known))
    full = np.concatenate((np.ones((len(chances), 1)), chances), axis=1)
    asked = np.clip(np.asarray(at, dtype=np.float64), 0.0, grid[-1])
    left = np.clip(np.searchsorted(grid, asked, side="right") - 1, 0, len(known) - 1)
    share = (asked - grid[left]) / (grid[left + 1] - grid[left])
    found: FloatArray = full[:, left] * (1 - share) + full[:, left + 1] * share
    return found
