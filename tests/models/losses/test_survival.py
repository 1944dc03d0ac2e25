"""Losses of times, grades and values against other libraries and sums written out."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.losses.survival import (
    cox_shares,
    discrete_time_loss,
    ordinal_loss,
    regression_loss,
)
from models.mil.target_losses import BreslowCox, CensoringWeighted, HuberRegression
from structures import MILOutput

EXACT = {"rtol": 0, "atol": 1e-12}  # float64


def tied_set(seed):
    """Return log-risks, times in a few whole numbers and events, at least one."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    times, events = rng.integers(0, 8, n).astype(float), rng.random(n) < 0.5
    events[rng.integers(n)] = True
    return rng.normal(size=n) * 2, times, events


def our_loss(eta, times, events, ties="efron"):
    """Return the loss times the events, and its gradient."""
    risks = torch.tensor(eta, requires_grad=True)
    shares = cox_shares(risks, torch.tensor(times), torch.tensor(events), ties)
    shares.sum().backward()
    return float(shares.detach().sum()), risks.grad.numpy()


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_equals_scikit_survival(ties):
    from sksurv.linear_model.coxph import CoxPHOptimizer

    for seed in range(50):
        eta, times, events = tied_set(seed)
        n = len(eta)
        theirs = CoxPHOptimizer(np.eye(n), events, times, np.zeros(n), ties)
        value = theirs.nlog_likelihood(eta) * n  # it divides by the number of bags
        theirs.update(eta)
        found, gradient = our_loss(eta, times, events, ties)
        assert found == pytest.approx(value, abs=1e-9)
        np.testing.assert_allclose(gradient, np.asarray(theirs.gradient) * n, rtol=0, atol=1e-9)


def test_cox_equals_lifelines():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd
        from lifelines.fitters.coxph_fitter import SemiParametricPHFitter

        for seed in range(50):
            eta, times, events = tied_set(seed)
            order, n = np.argsort(times, kind="stable"), len(eta)
            columns = (np.eye(n)[order], times[order], events[order], np.ones(n))
            frames = [pd.DataFrame(columns[0]), *(pd.Series(c) for c in columns[1:])]
            fitter = SemiParametricPHFitter()
            _, gradient, value = fitter._get_efron_values_single(*frames, None, eta)
            found, ours = our_loss(eta, times, events)
            assert found == pytest.approx(-value, abs=1e-9)
            np.testing.assert_allclose(ours, -np.ravel(gradient), rtol=0, atol=1e-9)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_equals_torchsurv(ties):
    """Without tied events it takes a formula in which a censored bag's tie is broken by order."""
    from torchsurv.loss.cox import neg_partial_log_likelihood

    for seed in range(50):
        eta, times, events = tied_set(seed)
        if np.unique(times[events]).size == events.sum():
            continue
        theirs = neg_partial_log_likelihood(
            torch.tensor(eta).view(-1, 1), torch.tensor(events), torch.tensor(times),
            ties_method=ties, reduction="sum",
        )  # fmt: skip
        assert our_loss(eta, times, events, ties)[0] == pytest.approx(float(theirs), rel=3e-6)


def literal_share(i, eta, times, events):
    """The formula of a share with its sums written out."""
    if not events[i]:
        return 0.0
    total = sum(math.exp(e) for e, t in zip(eta, times, strict=True) if t >= times[i])
    tied = [j for j in range(len(eta)) if events[j] and times[j] == times[i]]
    among = sum(math.exp(eta[j]) for j in tied)
    logs = [math.log(total - r / len(tied) * among) for r in range(len(tied))]
    return -eta[i] + sum(logs) / len(tied)


def test_shares_do_not_depend_on_the_order_of_the_batch():
    for seed in range(10):
        eta, times, events = tied_set(seed)
        given = torch.tensor(eta), torch.tensor(times), torch.tensor(events)
        shares = cox_shares(*given)
        wanted = [literal_share(i, eta, times, events) for i in range(len(eta))]
        torch.testing.assert_close(shares, torch.tensor(wanted), **EXACT)
        order = torch.randperm(len(eta), generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(cox_shares(*(g[order] for g in given)), shares[order], **EXACT)


def test_many_bags_are_computed_in_parts(monkeypatch):
    eta, times, events = (torch.tensor(v) for v in tied_set(3))
    wanted = cox_shares(eta, times, events)
    monkeypatch.setattr("models.losses.survival._ROWS", 4)
    torch.testing.assert_close(cox_shares(eta, times, events), wanted, **EXACT)


def test_bags_that_are_not_present_are_in_no_risk_set():
    eta, times, events = (torch.tensor(v) for v in tied_set(5))
    here = torch.arange(len(eta)) % 3 != 1
    shares = cox_shares(eta, times, events, present=here)
    assert not shares[~here].any()
    alone = cox_shares(eta[here], times[here], events[here])
    torch.testing.assert_close(shares[here], alone, **EXACT)


def test_times_that_float32_would_tie_are_not_tied():
    times = torch.tensor([1e8, 1e8 + 1, 1e8 + 2], dtype=torch.float64)
    assert times.float().unique().numel() == 1
    shares = cox_shares(torch.zeros(3), times, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(shares, torch.tensor([3.0, 2.0, 1.0]).log())


@pytest.mark.parametrize("scale", [100.0, -100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_extreme_log_risks(scale, dtype):
    eta = torch.tensor([scale, -scale, scale, 0.0, -scale], dtype=dtype, requires_grad=True)
    times = torch.tensor([1.0, 1, 2, 2, 3], dtype=torch.float64)
    events = torch.tensor([True, True, True, False, True])
    shares = cox_shares(eta, times, events)
    shares.sum().backward()
    wanted, gradient = our_loss(eta.detach().double().numpy(), times.numpy(), events.numpy())
    assert shares.dtype == torch.float32
    assert float(shares.detach().sum()) == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(eta.grad.float().numpy(), gradient, rtol=0, atol=1e-3)
    assert eta.grad.sum() == pytest.approx(0, abs=1e-3)  # a constant is never learnt


def some_bags(n=40, bins=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, bins, generator=random, dtype=torch.float64)
    labels = torch.stack(
        [torch.randint(0, bins, (n,), generator=random), torch.arange(n) % 2], dim=1
    )
    return logits, labels.double()


def test_discrete_time_is_cross_entropy_of_the_bins_that_a_bag_reaches():
    logits, labels = some_bags()
    found = discrete_time_loss(logits, labels)
    for row, (last, event), loss in zip(logits, labels.tolist(), found, strict=True):
        reached = row[: int(last) + 1]
        targets = torch.zeros_like(reached)
        targets[-1] = event
        wanted = F.binary_cross_entropy_with_logits(reached, targets, reduction="sum")
        torch.testing.assert_close(loss, wanted, **EXACT)


def test_discrete_time_by_hand():
    # hazards 1/2, 1/4: an event in the second bin has (1/2)(1/4), a censored bag (1/2)(3/4)
    logits = torch.tensor([[0.0, -math.log(3)]]).repeat(2, 1)
    found = discrete_time_loss(logits, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([math.log(8), math.log(8 / 3)]))


def test_ordinal_is_discrete_time_with_the_signs_turned():
    """And with the last grade censored in the last bin."""
    logits, _ = some_bags(bins=4)
    grades = torch.arange(40) % 5
    labels = torch.stack([grades.clamp(max=3), grades < 4], dim=1).double()
    assert torch.equal(ordinal_loss(logits, grades), discrete_time_loss(-logits, labels))
    chances = MILOutput(logits).probabilities("ordinal")
    torch.testing.assert_close(chances.sum(1), torch.ones(40, dtype=torch.float64), **EXACT)
    said = -chances.gather(1, grades[:, None])[:, 0].log()
    torch.testing.assert_close(ordinal_loss(logits, grades), said, rtol=0, atol=1e-9)
    assert ordinal_loss(logits, torch.full((40,), -1)).tolist() == [0.0] * 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sure_and_wrong_has_a_gradient(dtype):
    """Of clamped probabilities the gradient is 0 here."""
    for loss, labels, right in (
        (discrete_time_loss, torch.tensor([[0.0, 0.0]]), -1),
        (discrete_time_loss, torch.tensor([[0.0, 1.0]]), 1),
        (ordinal_loss, torch.tensor([0]), -1),
        (ordinal_loss, torch.tensor([1]), 1),
    ):
        for size in (20.0, 100.0):
            logits = torch.full((1, 1), -right * size, dtype=dtype, requires_grad=True)
            value = loss(logits, labels)
            value.sum().backward()
            assert value.item() == pytest.approx(size, rel=1e-3)
            assert logits.grad.item() == pytest.approx(-right, rel=1e-3)
            assert loss(-logits, labels).item() == pytest.approx(0, abs=1e-6)


def test_regression_by_hand():
    labels = torch.tensor([[1.0, math.nan], [math.nan, math.nan], [0.0, -4.0]]).double()
    values = torch.tensor([[3.0, 8.0], [1.0, 1.0], [0.5, 0.0]], requires_grad=True)
    found = regression_loss(values, labels)
    assert found.tolist() == [4.0, 0.0, (0.25 + 16) / 2]
    assert regression_loss(values, labels, 1.0).tolist() == [1.5, 0.0, (0.125 + 3.5) / 2]
    assert regression_loss(values, labels, 3.0).tolist() == [2.0, 0.0, (0.125 + 7.5) / 2]
    found.sum().backward()
    assert values.grad.tolist() == [[4.0, 0.0], [0.0, 0.0], [0.5, 4.0]]


def line(in_features, num_classes, task):
    from models.mil.abmil import ABMIL

    return ABMIL(in_features, num_classes, task, hidden_sizes=(4,), attention_dim=3)


@pytest.mark.parametrize("alpha", [0.0, 0.15, 0.5, 1.0])
def test_alpha_by_hand(alpha):
    logits, labels = some_bags()
    model = CensoringWeighted(3, 5, "discrete_time", learner=line, alpha=alpha)
    plain = discrete_time_loss(logits, labels)
    event = labels[:, 1]
    wanted = (1 - alpha) * plain + alpha * plain * event
    torch.testing.assert_close(model.bag_losses(logits, labels), wanted, **EXACT)


@pytest.mark.parametrize(
    ("wrapper", "task", "options"),
    [
        (BreslowCox, "discrete_time", {}),
        (CensoringWeighted, "cox", {"alpha": 0.5}),
        (HuberRegression, "binary", {}),
    ],
)
def test_a_loss_of_another_task_is_refused(wrapper, task, options):
    with pytest.raises(ValueError, match=f"of the task {wrapper.for_task}, not of {task}"):
        wrapper(3, 2, task, learner=line, **options)
