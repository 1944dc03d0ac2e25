"""Risk groups of bags, and the log-rank test of their times."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.targets.censoring import FloatArray, IntArray, life_table


class LogRank(NamedTuple):
    """Result of the log-rank test; NaN if undefined.

    Attributes:
        statistic: chi-squared statistic.
        df: degrees of freedom, the number of groups with bags less one.
        p: probability of a statistic at least as large if all groups have the same hazard.
        note: why the test is undefined, or empty.
    """

    statistic: float
    df: int
    p: float
    note: str = ""

    def record(self) -> dict[str, float | int | None]:
        """Return ``statistic``, ``df`` and ``p`` for JSON; None where undefined."""
        if self.note:
            return {"statistic": None, "df": self.df or None, "p": None}
        return {"statistic": self.statistic, "df": self.df, "p": self.p}


def log_rank(time: npt.ArrayLike, event: npt.ArrayLike, group: npt.ArrayLike) -> LogRank:
    """Test whether groups of bags have the same hazard (Mantel 1966; Peto and Peto 1972).

    With n_gs bags of group g at risk at time s, n_s and m_s bags at risk and events of all groups:
    Z_g = sum_s (m_gs - m_s n_gs / n_s) and
    V_gh = sum_s m_s (n_s - m_s) / (n_s - 1) (n_gs / n_s) ([g = h] - n_hs / n_s), where a time with
    n_s = 1 adds 0. The statistic is Z' V^-1 Z without one of the groups (A728).

    Args:
        time: (n,) times.
        event: (n,) True for an event.
        group: (n,) group of each bag.
    """
    happened = np.asarray(event, dtype=bool)
    moments = np.asarray(time, dtype=np.float64)
    names, member = np.unique(np.asarray(group), return_inverse=True)
    degrees = max(len(names) - 1, 0)
    if degrees == 0:
        return LogRank(np.nan, 0, np.nan, "all bags are of one risk group")
    whole = life_table(moments, happened)
    chosen = whole.events > 0
    times = whole.times[chosen]
    n, m = whole.at_risk[chosen].astype(np.float64), whole.events[chosen].astype(np.float64)
    own = np.stack([_at_risk(moments[member == g], times) for g in range(len(names))], axis=1)
    observed = np.bincount(member[happened], minlength=len(names))
    share = own / n[:, None]
    apart = (observed - m @ share)[:-1]
    factor = np.where(n > 1, m * (n - m) / np.maximum(n - 1, 1), 0.0)
    variance = np.diag(factor @ share) - (share * factor[:, None]).T @ share
    variance = variance[:-1, :-1]
    if not (factor @ (share * (1 - share))).any():
        reason = "no event at a time at which two risk groups are at risk"
        return LogRank(np.nan, degrees, np.nan, reason)
    from scipy.stats import chi2

    # A group that leaves before the first event has a row of zeros, hence the pseudo-inverse.
    statistic = float(apart @ np.linalg.pinv(variance, hermitian=True) @ apart)
    return LogRank(statistic, degrees, float(chi2.sf(statistic, degrees)))


def _at_risk(time: FloatArray, at: FloatArray) -> FloatArray:
    known = np.sort(time)
    return (known.size - np.searchsorted(known, at, side="left")).astype(np.float64)


def risk_cuts(risk: npt.ArrayLike, groups: int = 2) -> FloatArray:
    """Return the quantiles of training risks at which bags are divided into groups.

    Args:
        risk: (n,) risks of the training bags.
        groups: number of groups, at least 2.

    Returns:
        (groups - 1,) the k / groups quantiles, linear between risks; the median for two groups.

    Raises:
        ValueError: fewer than two groups or no risks.
    """
    risks = np.asarray(risk, dtype=np.float64)
    if groups < 2 or risks.size == 0:
        raise ValueError(f"need at least 2 groups and one risk, got {groups} and {risks.size}")
    found: FloatArray = np.quantile(risks, np.arange(1, groups) / groups)
    return found


def risk_groups(risk: npt.ArrayLike, cuts: npt.ArrayLike) -> IntArray:
    """Return the group of each risk, 0 for the lowest; a risk equal to a cut goes up.

    Args:
        risk: (n,) risks.
        cuts: (G - 1,) ascending, see `risk_cuts`.

    Returns:
        (n,) in 0 to G - 1.
    """
    found = np.searchsorted(np.asarray(cuts, dtype=np.float64), np.asarray(risk), side="right")
    return found.astype(np.int64)
