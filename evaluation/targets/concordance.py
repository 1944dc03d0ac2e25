"""Concordance of risks and times: Harrell's C and Uno's C of many weighted samples.

- Harrell et al. 1996, Statistics in Medicine 15: the share of comparable pairs in which the bag
  with the earlier event has the higher risk; equal risks count 1/2.
- Uno et al. 2011, Statistics in Medicine 30: the same with each pair weighted by 1 / G(t)^2 at the
  earlier time t, so that the value does not depend on how much is censored; G is the Kaplan-Meier
  curve of censoring, and only events before ``tau`` count.

A pair (i, j) is comparable if bag i has an event at t_i and t_j > t_i, or t_j = t_i and bag j is
censored. A high risk means an early event; no sign is ever tried.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from evaluation.targets.censoring import BoolArray, FloatArray, IntArray, StepCurve


class _Level(NamedTuple):
    """Pairs whose places in time first differ in one binary digit.

    Attributes:
        later: (m,) bags with the digit 1, by block of equal higher digits, then by risk.
        earlier: (k,) bags with an event and the digit 0.
        block: (k,) position in ``later`` at which the block of each earlier bag begins.
        below: (k,) first position in its block with a risk of at least that of the earlier bag.
        upto: (k,) first position in its block with a higher risk.
        end: (k,) position at which the block ends.
    """

    later: IntArray
    earlier: IntArray
    block: IntArray
    below: IntArray
    upto: IntArray
    end: IntArray


class ComparablePairs:
    """Comparable pairs of n bags, arranged once for any number of weighted samples.

    Places in time are numbered, a censored bag after the events of its time. Two places differ
    first in some binary digit; for each digit the bags are sorted by risk within the blocks that
    share the higher digits, and cumulative sums count the pairs. That takes O(n log n) steps and
    memory for each sample, and no n x n table.

    Args:
        time: (n,) times.
        event: (n,) True for an event, False for a censored bag.
        risk: (n,) finite.
    """

    def __init__(self, time: FloatArray, event: BoolArray, risk: FloatArray) -> None:
        self.event = event
        order = np.lexsort((~event, time))
        change = (np.diff(time[order]) > 0) | (np.diff(~event[order]).astype(bool))
        place = np.empty(len(time), dtype=np.int64)
        place[order] = np.concatenate(([0], np.cumsum(change)))[: len(time)]
        rank = np.unique(risk, return_inverse=True)[1].astype(np.int64)
        digits = int(place.max(initial=0)).bit_length()
        by_risk = np.argsort(rank, kind="stable")
        self._levels = [_level(place, rank, by_risk, event, digit) for digit in range(digits)]

    def sums(self, earlier: FloatArray, later: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the weights of the concordant pairs and of all pairs.

        A pair (i, j) has the weight ``earlier[r, i] * later[r, j]``.

        Args:
            earlier: (R, n) weights of bags as the earlier one of a pair.
            later: (R, n) weights of bags as the later one.

        Returns:
            concordant (R,), with half of the pairs of equal risks; comparable (R,).
        """
        first, second = np.ascontiguousarray(earlier.T), np.ascontiguousarray(later.T)
        concordant, comparable = np.zeros(first.shape[1]), np.zeros(first.shape[1])
        for level in self._levels:
            total = np.zeros((level.later.size + 1, first.shape[1]))
            np.cumsum(second[level.later], axis=0, out=total[1:])
            weight, start = first[level.earlier], total[level.block]
            lower = (total[level.below] + total[level.upto]) / 2 - start
            concordant += np.einsum("kr,kr->r", weight, lower)
            comparable += np.einsum("kr,kr->r", weight, total[level.end] - start)
        return concordant, comparable


def _level(
    place: IntArray, rank: IntArray, by_risk: IntArray, event: BoolArray, digit: int
) -> _Level:
    block, bit = place >> (digit + 1), (place >> digit) & 1
    later = by_risk[bit[by_risk] == 1]
    later = later[np.argsort(block[later], kind="stable")]
    earlier = np.flatnonzero((bit == 0) & event)
    ranks = int(rank.max()) + 1
    key = block[later] * ranks + rank[later]
    start = block[earlier] * ranks
    edges = (start, start + rank[earlier], start + rank[earlier] + 1, start + ranks)
    return _Level(later, earlier, *(np.searchsorted(key, edge) for edge in edges))


def harrell_c(pairs: ComparablePairs, weights: FloatArray) -> FloatArray:
    """Return Harrell's C of weighted samples.

    Args:
        pairs: pairs of the n bags.
        weights: (R, n) how often each sample contains each bag.

    Returns:
        (R,) in [0, 1]; NaN for a sample without a comparable pair.
    """
    return _ratio(*pairs.sums(weights * pairs.event, weights))


def uno_weights(time: FloatArray, event: BoolArray, censoring: StepCurve, tau: float) -> FloatArray:
    """Return 1 / G(t)^2 for each event before tau, and 0 for every other bag.

    Args:
        time: (n,) times.
        event: (n,) True for an event.
        censoring: curve G of censoring, see `evaluation.targets.censoring.censoring_curve`.
        tau: time from which events do not count.

    Returns:
        (n,); infinite where G is 0, which leaves Uno's C undefined.
    """
    counts = event & (time < tau)
    with np.errstate(divide="ignore"):
        return np.where(counts, censoring.at(time) ** -2.0, 0.0)


def uno_c(pairs: ComparablePairs, inverse: FloatArray, weights: FloatArray) -> FloatArray:
    """Return Uno's C of weighted samples.

    Args:
        pairs: pairs of the n bags.
        inverse: (n,) weights of `uno_weights`.
        weights: (R, n) how often each sample contains each bag.

    Returns:
        (R,) in [0, 1]; NaN for a sample without a comparable pair before tau, and for all samples
        if the curve of censoring is 0 at an event before tau.
    """
    if not np.isfinite(inverse).all():
        return np.full(len(weights), np.nan)
    return _ratio(*pairs.sums(weights * inverse, weights))


def _ratio(concordant: FloatArray, comparable: FloatArray) -> FloatArray:
    result = np.full(len(comparable), np.nan)
    np.divide(concordant, comparable, out=result, where=comparable > 0)
    return result


def discordance(time: FloatArray, event: BoolArray, risk: FloatArray) -> FloatArray:
    """Return the share of each bag's comparable pairs, as either of the two, in the wrong order.

    Weighted by the pairs of each bag, the mean is 1 - C (`harrell_c`). O(n^2) time, O(n) memory.

    Args:
        time: (n,) times.
        event: (n,) True for an event.
        risk: (n,) finite.

    Returns:
        (n,) in [0, 1], equal risks 1/2; NaN for a bag in no pair.
    """
    found = np.full(len(time), np.nan)
    for n in range(len(time)):
        after = ((time > time[n]) | ((time == time[n]) & ~event)) & event[n]
        before = ((time < time[n]) | ((time == time[n]) & ~event[n])) & event
        before[n] = after[n] = False
        wrong = np.where(after, risk > risk[n], risk < risk[n]) + 0.5 * (risk == risk[n])
        pairs = after | before
        if pairs.any():
            found[n] = wrong[pairs].mean()
    return found
