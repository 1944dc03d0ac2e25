"""Checked times, values and grades of bags beside their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from evaluation.targets.censoring import (
    BoolArray,
    Breslow,
    FloatArray,
    StepCurve,
    censoring_curve,
    interpolated,
)

TRAINING, SCORED = "training bags", "scored bags"
TAU_QUANTILE = 0.9  # of the times of the reference
_ROUNDING = 1e-9  # by which survival in a table may rise


class Curves(Protocol):
    """Predicted survival of n bags as functions of time."""

    def at(self, times: FloatArray) -> FloatArray:
        """Return (n, T) probabilities to survive each of (T,) times."""

    def rows(self, chosen: npt.NDArray[np.generic]) -> Curves:
        """Return the curves of some bags, given by number or as (n,) bool."""


class BinnedCurves:
    """Survival known at some times: of a discrete-time model, or the columns of a table.

    Args:
        survival: (n, K) probability to survive each edge, in [0, 1] and never rising.
        edges: (K,) times above 0, ascending; see `evaluation.targets.censoring.interpolated`.

    Raises:
        ValueError: shapes disagree, edges don't ascend, or a value is no probability.
    """

    def __init__(self, survival: npt.ArrayLike, edges: npt.ArrayLike) -> None:
        self.survival = np.asarray(survival, dtype=np.float64)
        self.edges = np.asarray(edges, dtype=np.float64)
        if self.survival.ndim != 2 or self.edges.shape != self.survival.shape[1:]:
            shapes = f"{self.survival.shape} and {self.edges.shape}"
            raise ValueError(f"need survival (n, K) and edges (K,), got {shapes}")
        if not (np.diff(self.edges, prepend=0.0) > 0).all():
            raise ValueError(f"edges must be above 0 and ascend, got {self.edges.tolist()}")
        wrong = ~((self.survival >= 0) & (self.survival <= 1))
        wrong[:, 1:] |= np.diff(self.survival, axis=1) > _ROUNDING
        _refuse(wrong, self.survival, "survival", "falling, in [0, 1]")

    def at(self, times: FloatArray) -> FloatArray:
        """Return (n, T) probabilities, linear between the edges."""
        return interpolated(self.survival, self.edges, times)

    def rows(self, chosen: npt.NDArray[np.generic]) -> BinnedCurves:
        """Return the curves of some bags."""
        return BinnedCurves(self.survival[chosen], self.edges)


class CoxCurves:
    """Survival by a Cox model: a baseline of the training bags, raised to each bag's risk.

    Args:
        baseline: Breslow's estimate on the training bags.
        log_risk: (n,) log-risks.
    """

    def __init__(self, baseline: Breslow, log_risk: npt.ArrayLike) -> None:
        self.baseline = baseline
        self.log_risk = np.asarray(log_risk, dtype=np.float64)

    def at(self, times: FloatArray) -> FloatArray:
        """Return (n, T) probabilities, step functions of time."""
        return self.baseline.survival(self.log_risk, times)

    def rows(self, chosen: npt.NDArray[np.generic]) -> CoxCurves:
        """Return the curves of some bags."""
        return CoxCurves(self.baseline, self.log_risk[chosen])


@dataclass(frozen=True, slots=True)
class SurvivalTable:
    """Times and predictions of n bags.

    Attributes:
        time: (n,) at least 0, in the user's unit.
        event: (n,) True for an event, False for a censored bag.
        risk: (n,) finite; a high risk means an early event.
        curves: predicted survival, or None where only risks are known.
    """

    time: FloatArray
    event: BoolArray
    risk: FloatArray
    curves: Curves | None = None

    def rows(self, chosen: npt.NDArray[np.generic]) -> SurvivalTable:
        """Return the table of some bags, given by number or as (n,) bool."""
        curves = None if self.curves is None else self.curves.rows(chosen)
        time, event, risk = self.time[chosen], self.event[chosen], self.risk[chosen]
        return replace(self, time=time, event=event, risk=risk, curves=curves)


def survival_table(
    time: npt.ArrayLike, event: npt.ArrayLike, risk: npt.ArrayLike, curves: Curves | None = None
) -> SurvivalTable:
    """Check and convert times and risks.

    Args:
        time: see `SurvivalTable`.
        event: (n,) bool, or zeros and ones.
        risk: see `SurvivalTable`.
        curves: see `SurvivalTable`.

    Raises:
        ValueError: no bags, lengths that differ, or a wrong value; the message names the first bag.
    """
    times, risks = np.asarray(time, dtype=np.float64), np.asarray(risk, dtype=np.float64)
    happened = np.asarray(event)
    shapes = times.shape, happened.shape, risks.shape
    if times.ndim != 1 or len(set(shapes)) > 1 or times.size == 0:
        raise ValueError(f"need times, events and risks (n,) of at least one bag, got {shapes}")
    _refuse(~(np.isfinite(times) & (times >= 0)), times, "time", "at least 0")
    _refuse(~np.isin(happened, (0, 1)), happened, "event", "0 or 1")
    _refuse(~np.isfinite(risks), risks, "risk", "a finite number")
    if curves is not None and len(curves.at(np.zeros(1))) != times.size:
        raise ValueError(f"{times.size} bags but {len(curves.at(np.zeros(1)))} survival curves")
    return SurvivalTable(times, happened.astype(bool), risks, curves)


def _refuse(wrong: BoolArray, values: npt.NDArray[np.generic], kind: str, allowed: str) -> None:
    rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
    if rows.size:
        what = f"bag {rows[0]} has the {kind} {values[rows[0]]} ({rows.size} such bags)"
        raise ValueError(f"{what}; it must be {allowed}")


@dataclass(frozen=True, slots=True)
class SurvivalReference:
    """What the scores of a survival model take from other bags than those scored.

    Attributes:
        time: (m,) times of the training bags.
        event: (m,) True for an event.
        risk: (m,) their risks, or quantiles of them, or None if they are not known.
        source: which bags they are, for the record.
    """

    time: FloatArray
    event: BoolArray
    risk: FloatArray | None = None
    source: str = TRAINING

    @property
    def censoring(self) -> StepCurve:
        """The curve of censoring."""
        return censoring_curve(self.time, self.event)

    @property
    def tau(self) -> float:
        """The time from which events do not count for Uno's C, unless the user gives it."""
        return float(np.quantile(self.time, TAU_QUANTILE))


def reference_of(table: SurvivalTable) -> SurvivalReference:
    """Return the scored bags themselves as the reference, where no training bags are known."""
    return SurvivalReference(table.time, table.event, table.risk, SCORED)


@dataclass(frozen=True, slots=True)
class ValueTable:
    """Values and predictions of n bags for T targets, in the user's unit.

    Attributes:
        target: (n, T); NaN where a value is unknown.
        prediction: (n, T) finite.
        names: T names.
    """

    target: FloatArray
    prediction: FloatArray
    names: tuple[str, ...]

    def rows(self, chosen: npt.NDArray[np.generic]) -> ValueTable:
        """Return the table of some bags, given by number or as (n,) bool."""
        return ValueTable(self.target[chosen], self.prediction[chosen], self.names)


def value_table(
    target: npt.ArrayLike, prediction: npt.ArrayLike, names: Sequence[str] = ()
) -> ValueTable:
    """Check and convert values.

    Args:
        target: (n, T) or (n,); NaN where a value is unknown.
        prediction: (n, T) or (n,).
        names: T names; their numbers if empty.

    Raises:
        ValueError: no bags, shapes that disagree, an infinite value, or a prediction that is not
            finite; the message names the first bag.
    """
    truth, says = np.asarray(target, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if truth.shape != says.shape or truth.ndim not in (1, 2) or truth.size == 0:
        raise ValueError(
            f"need values and predictions (n, T) of at least one bag, got {truth.shape} and "
            f"{says.shape}"
        )
    truth, says = truth.reshape(len(truth), -1), says.reshape(len(says), -1)
    found = tuple(names) or tuple(str(number) for number in range(truth.shape[1]))
    if len(found) != truth.shape[1]:
        raise ValueError(f"{len(found)} names for {truth.shape[1]} targets")
    _refuse(np.isinf(truth), truth, "value", "finite, or NaN if unknown")
    _refuse(~np.isfinite(says), says, "prediction", "finite")
    return ValueTable(truth, says, found)
