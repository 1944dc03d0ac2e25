"""Scores of predicted risks and survival curves against times that are partly censored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.statistics.sample_size import too_few_units
from evaluation.targets.auc import cumulative_dynamic_auc, mean_auc
from evaluation.targets.brier import brier_scores, brier_terms, integrated
from evaluation.targets.censoring import (
    BoolArray,
    FloatArray,
    IntArray,
    kaplan_meier,
    numbers_at_risk,
    weighted_survival,
)
from evaluation.targets.concordance import ComparablePairs, harrell_c, uno_c, uno_weights
from evaluation.targets.log_rank import LogRank, log_rank, risk_cuts, risk_groups
from evaluation.targets.tables import SurvivalReference, SurvivalTable, reference_of

SURVIVAL_METRICS = ("bag_c_index", "bag_c_index_ipcw", "bag_ibs", "bag_td_auc")


def default_times(time: FloatArray, event: BoolArray) -> FloatArray:
    """Return the deciles .1 to .9 of the times of events, each distinct value once.

    Args:
        time: (n,) times of the bags scored, in a cross-validation of all bags.
        event: (n,) True for an event.

    Returns:
        (T,) ascending, at most nine; empty without events.
    """
    found = np.asarray(time, dtype=np.float64)[np.asarray(event, dtype=bool)]
    if not found.size:
        return np.zeros(0)
    return np.unique(np.quantile(found, np.arange(1, 10) / 10))


class SurvivalScorer:
    """Scores of a survival model.

    - ``bag_c_index``: Harrell's C, ``bag_c_index_ipcw``: Uno's C with events before ``tau``
      (`evaluation.targets.concordance`).
    - ``bag_ibs``: integrated Brier score over ``times`` (`evaluation.targets.brier`).
    - ``bag_td_auc``: mean cumulative, dynamic AUC over ``times`` (`evaluation.targets.auc`).

    The curve of censoring is that of the reference, also in bootstrap draws, which draw the scored
    bags alone (A721). The weights of the mean AUC come from the Kaplan-Meier curve of each draw.
    Where the curve of censoring is 0 at a time that counts, a value is undefined (A724).

    Args:
        table: times and predictions.
        reference: the training bags; the scored bags themselves if None.
        times: times of Brier scores and AUCs, at least 0, in any order; None for `default_times`.
        tau: see `uno_c`; None for the .9 quantile of the times of the reference.
        groups: number of risk groups, cut at quantiles of the risks of the reference.

    Raises:
        ValueError: a negative time, a tau that is not above 0, or fewer than two groups.
    """

    def __init__(
        self,
        table: SurvivalTable,
        reference: SurvivalReference | None = None,
        *,
        times: Sequence[float] | FloatArray | None = None,
        tau: float | None = None,
        groups: int = 2,
    ) -> None:
        self.table = table
        self.reference = reference_of(table) if reference is None else reference
        self.times = default_times(table.time, table.event) if times is None else _checked(times)
        self.tau = self.reference.tau if tau is None else tau
        if not (np.isfinite(self.tau) and self.tau >= 0) or (tau is not None and tau == 0):
            raise ValueError(f"tau must be a time above 0, got {self.tau}")
        if groups < 2:
            raise ValueError(f"need at least 2 risk groups, got {groups}")
        self.groups = groups
        self.censoring = self.reference.censoring

    @property
    def count(self) -> int:
        """Number of bags."""
        return len(self.table.time)

    def rows(self, chosen: npt.NDArray[np.generic]) -> SurvivalScorer:
        """Return the scorer of some bags, with the reference, times, tau and cuts of all (A752)."""
        found = SurvivalScorer(
            self.table.rows(chosen),
            self.reference,
            times=self.times,
            tau=self.tau or None,  # the reference's own may be 0
            groups=self.groups,
        )
        found.cuts = self.cuts
        return found

    @cached_property
    def _pairs(self) -> ComparablePairs:
        return ComparablePairs(self.table.time, self.table.event, self.table.risk)

    @cached_property
    def _inverse(self) -> FloatArray:
        return uno_weights(self.table.time, self.table.event, self.censoring, self.tau)

    @cached_property
    def _terms(self) -> FloatArray:
        """(n, T) terms of the Brier scores; NaN without survival curves."""
        table = self.table
        if table.curves is None:
            return np.full((self.count, len(self.times)), np.nan)
        curves = table.curves.at(self.times)
        return brier_terms(table.time, table.event, curves, self.times, self.censoring)

    def auc(self, weights: FloatArray) -> FloatArray:
        """Return (R, T) AUC of weighted samples at ``times``."""
        table = self.table
        return cumulative_dynamic_auc(
            table.time, table.event, table.risk, self.times, self.censoring, weights
        )

    def metrics(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Return (R,) values of each metric."""
        table = self.table
        survival = weighted_survival(table.time, table.event, weights, self.times)
        return {
            "bag_c_index": harrell_c(self._pairs, weights),
            "bag_c_index_ipcw": uno_c(self._pairs, self._inverse, weights),
            "bag_ibs": integrated(brier_scores(self._terms, weights), self.times),
            "bag_td_auc": mean_auc(self.auc(weights), survival),
        }

    def strata(self, unit: IntArray) -> IntArray:
        """Return 1 for each unit that has an event, else 0."""
        return (np.bincount(unit, self.table.event) > 0).astype(np.int64)

    def too_few(self, unit: IntArray, patients: bool = False) -> str:
        """Return why intervals are withheld, or an empty text: few units with an event."""
        count = int(self.strata(unit).sum())
        return too_few_units("the event", count, "with an event", patients)

    @cached_property
    def cuts(self) -> FloatArray:
        """(groups - 1,) risks at which the groups are cut."""
        known = self.reference.risk
        return risk_cuts(self.table.risk if known is None else known, self.groups)

    def risk_groups(self) -> IntArray:
        """Return (n,) risk group of each bag, 0 for the lowest."""
        return risk_groups(self.table.risk, self.cuts)

    def log_rank(self) -> LogRank:
        """Return the log-rank test of the risk groups."""
        return log_rank(self.table.time, self.table.event, self.risk_groups())

    def undefined(self, metric: str) -> str:
        """Return why a metric has no value."""
        if metric == "bag_ibs":
            return self._no_brier()
        if not self.table.event.any():
            return "no bag has an event"
        if metric == "bag_c_index":
            return "no bag has a later time than a bag with an event"
        return self._no_uno() if metric == "bag_c_index_ipcw" else self._no_auc()

    def _no_brier(self) -> str:
        if self.table.curves is None:
            return "no survival probabilities are predicted"
        if len(self.times) < 2:
            return f"needs two times at least, got {len(self.times)}"
        return f"{self._gone('a time that counts')}; give earlier times"

    def _no_uno(self) -> str:
        before = f"before tau {self.tau:g}"
        if not np.isfinite(self._inverse).all():
            return f"{self._gone('an event ' + before)}; give a smaller tau"
        if not (self._inverse > 0).any():
            return f"no bag has an event {before}"
        return f"no bag has a later time than a bag with an event {before}"

    def _no_auc(self) -> str:
        cases = self.table.event & (self.table.time <= self.times.max(initial=-np.inf))
        if (self.censoring.at(self.table.time[cases]) == 0).any():
            return f"{self._gone('the time of an event')}; give earlier times"
        return "no time has both bags with an event up to it and bags with a later time"

    def _gone(self, where: str) -> str:
        return f"the censoring curve of the {self.reference.source} is 0 at {where}"

    def details(self) -> dict[str, Any]:
        """Return ``tau``, ``times``, ``risk_groups``, ``log_rank`` and ``censoring``."""
        once = np.ones((1, self.count))
        brier, auc = brier_scores(self._terms, once)[0], self.auc(once)[0]
        at_risk = numbers_at_risk(self.table.time, self.times)
        columns = zip(self.times, auc, brier, at_risk, strict=True)
        return {
            "tau": self.tau,
            "censoring": self.reference.source,
            "times": [
                {"time": float(t), "auc": float(a), "brier": float(b), "at_risk": int(n)}
                for t, a, b, n in columns
            ],
            "risk_groups": self._group_record(),
            "log_rank": self.log_rank().record(),
        }

    def _group_record(self) -> dict[str, Any]:
        # A725: without training risks the groups are those of the scored bags
        member, table, rows = self.risk_groups(), self.table, []
        for group in range(self.groups):
            own = member == group
            curve = kaplan_meier(table.time[own], table.event[own])
            events = int(table.event[own].sum())
            rows.append({"bags": int(own.sum()), "events": events, "median": curve.median()})
        source = self.reference.source if self.reference.risk is not None else "scored bags"
        return {"cuts": self.cuts.tolist(), "source": source, "groups": rows}


def _checked(times: Sequence[float] | FloatArray) -> FloatArray:
    found = np.asarray(times, dtype=np.float64).reshape(-1)
    if not (np.isfinite(found) & (found >= 0)).all():
        raise ValueError(f"times must be numbers of at least 0, got {found.tolist()}")
    return np.unique(found)
