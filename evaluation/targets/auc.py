"""Cumulative, dynamic AUC of risks at some times, and its mean over time.

At a time t, cases are the bags with an event at t_i <= t, weighted by 1 / G(t_i) with G the
Kaplan-Meier curve of censoring; controls are those with t_j > t. The AUC is the weighted share of
pairs in which the case has the higher risk, equal risks counting 1/2 (Uno et al. 2007, JASA 102;
Hung and Chiang 2010).
"""

from __future__ import annotations

import numpy as np

from evaluation.targets.censoring import BoolArray, FloatArray, StepCurve


def cumulative_dynamic_auc(
    time: FloatArray,
    event: BoolArray,
    risk: FloatArray,
    times: FloatArray,
    censoring: StepCurve,
    weights: FloatArray,
) -> FloatArray:
    """Return the AUC of weighted samples at each time.

    Args:
        time: (n,) times.
        event: (n,) True for an event.
        risk: (n,) risks, high for an early event.
        times: (T,) times.
        censoring: curve G of censoring.
        weights: (R, n) how often each sample contains each bag.

    Returns:
        (R, T) in [0, 1]; NaN without cases or without controls, and for all samples if G is 0 at
        the time of a case.
    """
    order = np.argsort(risk, kind="stable")
    starts = np.flatnonzero(np.concatenate(([True], np.diff(risk[order]) > 0)))
    time, event, sample = time[order], event[order], weights[:, order]
    share = censoring.at(time)
    inverse = np.zeros(len(time))
    np.divide(1.0, share, out=inverse, where=share > 0)
    found = np.full((len(weights), len(times)), np.nan)
    for place, moment in enumerate(times):
        case = event & (time <= moment)
        if (case & (share == 0)).any():
            continue
        cases = np.add.reduceat(sample * np.where(case, inverse, 0.0), starts, axis=1)
        controls = np.add.reduceat(sample * (time > moment), starts, axis=1)
        lower = np.cumsum(controls, axis=1) - controls / 2
        pairs = cases.sum(axis=1) * controls.sum(axis=1)
        wins = np.einsum("ru,ru->r", cases, lower)
        np.divide(wins, pairs, out=found[:, place], where=pairs > 0)
    return found


def mean_auc(auc: FloatArray, survival: FloatArray) -> FloatArray:
    """Return the mean of AUCs over time, weighted by how many bags die in each interval.

    sum_k AUC(t_k) (S(t_{k-1}) - S(t_k)) / (1 - S(t_last)) with S(t_0) = 1, over the times whose AUC
    is defined (A727).

    Args:
        auc: (R, T) AUC at ascending times.
        survival: (R, T) Kaplan-Meier curve of the scored bags at the same times.

    Returns:
        (R,) in [0, 1]; NaN where no AUC is defined.
    """
    defined = np.isfinite(auc)
    # An undefined time takes the value of the one before, so that its interval has no weight.
    lowest = np.minimum.accumulate(np.where(defined, survival, 1.0), axis=1)
    before = np.concatenate((np.ones((len(auc), 1)), lowest[:, :-1]), axis=1)
    weight = before - lowest
    total = weight.sum(axis=1)
    found = np.full(len(auc), np.nan)
    top = np.einsum("rt,rt->r", np.where(defined, auc, 0.0), weight)
    np.divide(top, total, out=found, where=total > 0)
    return found
