"""Brier score of survival probabilities, weighted for censoring, and its mean over time.

Graf et al. 1999, Statistics in Medicine 18: with G the Kaplan-Meier curve of censoring,

  Brier(t) = (1/n) sum_i [ S_i(t)^2 d_i [t_i <= t] / G(t_i) + (1 - S_i(t))^2 [t_i > t] / G(t) ].

A bag that is censored before t adds 0 but counts in n.
"""

from __future__ import annotations

import numpy as np

from evaluation.targets.censoring import BoolArray, FloatArray, StepCurve


def brier_terms(
    time: FloatArray,
    event: BoolArray,
    survival: FloatArray,
    times: FloatArray,
    censoring: StepCurve,
) -> FloatArray:
    """Return what each bag adds to the Brier score of each time.

    Args:
        time: (n,) times.
        event: (n,) True for an event.
        survival: (n, T) predicted probability to survive each of ``times``.
        times: (T,) times.
        censoring: curve G of censoring.

    Returns:
        (n, T); a column is NaN where a weight 1 / G is needed and G is 0.
    """
    at_bag, at_time = censoring.at(time)[:, None], censoring.at(times)[None]
    dead = event[:, None] & (time[:, None] <= times)
    alive = time[:, None] > times
    terms = np.zeros(survival.shape)
    np.divide(survival**2, at_bag, out=terms, where=dead & (at_bag > 0))
    np.divide((1 - survival) ** 2, at_time, out=terms, where=alive & (at_time > 0))
    lost = (dead & (at_bag == 0)) | (alive & (at_time == 0))
    terms[:, lost.any(axis=0)] = np.nan
    return terms


def brier_scores(terms: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the Brier score of weighted samples.

    Args:
        terms: (n, T) of `brier_terms`.
        weights: (R, n) how often each sample contains each bag.

    Returns:
        (R, T), at least 0; 0.25 for S = 1/2 everywhere without censoring.
    """
    found: FloatArray = (weights @ terms) / weights.sum(axis=1, keepdims=True)
    return found


def integrated(scores: FloatArray, times: FloatArray) -> FloatArray:
    """Return the mean of Brier scores over time by the trapezoid rule.

    Args:
        scores: (R, T) Brier scores.
        times: (T,) distinct times, ascending.

    Returns:
        (R,); NaN with fewer than two times, or where a score is undefined.
    """
    if len(times) < 2:
        return np.full(len(scores), np.nan)
    width = np.diff(times)
    found: FloatArray = ((scores[:, 1:] + scores[:, :-1]) / 2) @ width / (times[-1] - times[0])
    return found
