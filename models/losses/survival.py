"""Losses of bags whose target is a time, a grade or a value.

Bag i has the time t_i, the event d_i (1, or 0 for a censored bag) and the log-risk eta_i. A_s is
the sum of exp eta over the risk set of s, all bags with t >= s, censored ones too; Q_s is the sum
over the m_s bags with an event at s.

    cox            sum_s [ sum_r log(A_s - (r / m_s) Q_s) - sum of eta over those events ] / events
                   r = 0 .. m_s - 1 (Efron 1977), or r = 0 in all m_s terms (Breslow 1974);
                   partial likelihood of Cox 1972
    discrete_time  event in bin b: -sum_(k < b) log(1 - h_k) - log h_b,   h_k = sigmoid(l_k)
                   censored in bin b: -sum_(k <= b) log(1 - h_k)          Zadeh & Schmid 2020
    ordinal        -sum_(k < y) log sigmoid(l_k) - [y < K - 1] log sigmoid(-l_y)
                   continuation ratios: discrete_time with -l, where the last grade is censored
    regression     mean of (l_j - y_j)^2 over the known values of a bag

All are computed from logits: nothing is clamped, so a wrong prediction that is sure has a gradient.
Only the order of times matters to Cox; it is found in float64, in which labels are.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.ops.bags.ragged import segment_counts
from models.ops.precision import at_least_float32, back_to

Ties = Literal["efron", "breslow"]

_ROWS = 512  # of the matrix of bags and their risk sets that is in memory at once


def cox_shares(
    log_risks: Tensor,
    times: Tensor,
    events: Tensor,
    ties: Ties = "efron",
    present: Tensor | None = None,
) -> Tensor:
    """Return each bag's share of the negative partial log-likelihood.

    Without any event all shares are 0, connected to the log-risks.

    Args:
        log_risks: (n,) eta, finite.
        times: (n,) float64, in any unit; on the host if the device has no float64.
        events: (n,) bool.
        ties: how bags with events at one time are treated.
        present: (n,) bool, False for rows that belong to no risk set; all by default.

    Returns:
        (n,): d_i [ -eta_i + the mean of the m terms of the time t_i ], of which the sum is the loss
        times the number of events.
    """
    risks = at_least_float32(log_risks)
    device, count = risks.device, risks.shape[0]
    # Equal times have the number of the first of them in the order of times.
    order = torch.searchsorted(times.sort().values, times.contiguous()).to(device)
    here = torch.ones_like(order, dtype=torch.bool) if present is None else present
    counted = events.to(device) & here
    parts = [
        _log_denominators(risks, order, counted, here, slice(start, start + _ROWS), ties)
        for start in range(0, count, _ROWS)
    ]
    logs = torch.cat(parts)
    if ties == "efron":  # the terms of one time belong to its events together
        summed = torch.zeros_like(logs).index_add(0, order, logs.where(counted, 0.0))
        logs = summed[order] / segment_counts(order, count, counted)[order].clamp(min=1)
    return (logs - risks).where(counted, 0.0)


def _log_denominators(
    risks: Tensor, order: Tensor, counted: Tensor, here: Tensor, rows: slice, ties: Ties
) -> Tensor:
    """Return log(A - (r / m) Q) of some bags, (rows,), r the number of tied events before a bag."""
    numbers = torch.arange(risks.shape[0], device=risks.device)
    own = numbers[rows, None] == numbers  # keeps every sum from being empty
    at_risk = (order >= order[rows, None]) & here | own
    total = risks.masked_fill(~at_risk, -torch.inf).logsumexp(dim=1)
    if ties == "breslow":
        return total
    tied = (order == order[rows, None]) & counted | own
    among = risks.masked_fill(~tied, -torch.inf).logsumexp(dim=1)
    before = (tied & (numbers < numbers[rows, None])).sum(dim=1)
    fraction = before.to(risks.dtype) / tied.sum(dim=1)
    return total + torch.log1p(-fraction * (among - total).exp())


def discrete_time_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-likelihood of each bag's bin, (B,).

    Args:
        logits: (B, K) log-odds of the hazards.
        labels: (B, 2) number of the bin and event.
    """
    bins, events = labels[:, 0].long().to(logits.device), (labels[:, 1] == 1).to(logits.device)
    return _chain_loss(logits, bins, events)


def ordinal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-likelihood of each bag's grade, (B,); 0 where it is unknown.

    Args:
        logits: (B, K - 1) log-odds of P(y > k given y >= k).
        labels: (B,) int64 grades from 0, -1 where unknown.
    """
    # A bag of the last grade passes all K - 1 steps and stops at none.
    return _chain_loss(-logits, labels, torch.ones_like(labels, dtype=torch.bool))


def _chain_loss(logits: Tensor, last: Tensor, stopped: Tensor) -> Tensor:
    """Return the loss of passing the steps before the last and of stopping or not at it, (B,).

    Args:
        logits: (B, K) log-odds of stopping at each step.
        last: (B,) int64; a number outside of [0, K) is not among the steps.
        stopped: (B,) bool, False where the last step is passed too.
    """
    logits = at_least_float32(logits)
    steps, last = torch.arange(logits.shape[1], device=logits.device), last.unsqueeze(1)
    stop = (steps == last) & stopped.unsqueeze(1)
    right = torch.where(stop, logits, -logits)
    return -F.logsigmoid(right).where(steps <= last, 0.0).sum(dim=1)


def regression_loss(logits: Tensor, labels: Tensor, delta: float | None = None) -> Tensor:
    """Return the mean error of the known values of each bag, (B,); 0 where none is known.

    Args:
        logits: (B, T) coded values.
        labels: (B, T) coded values, NaN where unknown.
        delta: None for e^2; else Huber's e^2 / 2 up to delta, then delta (|e| - delta / 2).
    """
    logits = at_least_float32(logits)
    known = ~labels.isnan()
    wanted = back_to(logits, labels.nan_to_num(nan=0.0))
    known = known.to(logits.device)
    errors = (logits - wanted).where(known, 0.0)
    if delta is None:
        each = errors.square()
    else:
        each = F.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=delta)
    return each.sum(dim=1) / known.sum(dim=1).clamp(min=1)
