"""Harrell's and Uno's C against peers, a double loop and closed forms."""

import time as clock
import tracemalloc

import numpy as np
import pytest

from evaluation.targets.censoring import StepCurve, censoring_curve, life_table
from evaluation.targets.concordance import (
    ComparablePairs,
    discordance,
    harrell_c,
    uno_c,
    uno_weights,
)
from tests.support.tied_times import SETS, peer, tied


def one(time, event, risk):
    """Harrell's C of all bags."""
    time, event = np.asarray(time, float), np.asarray(event, bool)
    pairs = ComparablePairs(time, event, np.asarray(risk, float))
    return harrell_c(pairs, np.ones((1, len(time))))[0]


def uno(time, event, risk, curve, tau):
    pairs = ComparablePairs(time, event, risk)
    return uno_c(pairs, uno_weights(time, event, curve, tau), np.ones((1, len(time))))[0]


def loop(time, event, risk, weight, inverse):
    """Concordance by the definition, pair by pair."""
    top = bottom = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            later = time[j] > time[i] or (time[j] == time[i] and not event[j])
            if event[i] and later and i != j:
                pair = weight[i] * weight[j] * inverse[i]
                bottom += pair
                top += pair * ((risk[i] > risk[j]) + (risk[i] == risk[j]) / 2)
    return top / bottom


@pytest.mark.parametrize("seed", SETS)
def test_equals_scikit_survival_and_lifelines(seed):
    metrics = pytest.importorskip("sksurv.metrics")
    lifelines = pytest.importorskip("lifelines.utils")
    s = tied(seed)
    found = one(s.time, s.event, s.risk)
    theirs = metrics.concordance_index_censored(s.event, s.time, s.risk, tied_tol=0)[0]
    assert found == pytest.approx(theirs, abs=1e-12)
    assert found == pytest.approx(lifelines.concordance_index(s.time, -s.risk, s.event), abs=1e-12)
    tau = float(np.quantile(s.train_time, 0.9))
    train, test = peer(s.train_time, s.train_event), peer(s.time, s.event)
    weighted = metrics.concordance_index_ipcw(train, test, s.risk, tau, tied_tol=0)[0]
    curve = censoring_curve(s.train_time, s.train_event)
    assert uno(s.time, s.event, s.risk, curve, tau) == pytest.approx(weighted, abs=1e-12)


@pytest.mark.slow  # torchsurv takes seconds to import
def test_equals_torchsurv():
    torch = pytest.importorskip("torch")
    cindex = pytest.importorskip("torchsurv.metrics.cindex")
    ipcw = pytest.importorskip("torchsurv.stats.ipcw")
    for seed in SETS:
        s = tied(seed)
        event, time, risk = map(torch.from_numpy, (s.event, s.time, s.risk))
        theirs = cindex.ConcordanceIndex(tied_tol=0)(risk, event, time)
        assert one(s.time, s.event, s.risk) == pytest.approx(float(theirs), abs=1e-6)
        train = torch.from_numpy(s.train_event), torch.from_numpy(s.train_time)
        weight = ipcw.get_ipcw(*train, time).double()
        tau = float(np.quantile(s.train_time, 0.9))
        theirs = cindex.ConcordanceIndex(tied_tol=0)(
            risk, event, time, weight=weight, tmax=torch.tensor(tau)
        )
        curve = censoring_curve(s.train_time, s.train_event)
        assert uno(s.time, s.event, s.risk, curve, tau) == pytest.approx(float(theirs), abs=1e-6)


def test_weighted_samples_equal_a_loop_over_pairs():
    s = tied(3, scored=30)
    random = np.random.default_rng(0)
    weights = random.multinomial(30, np.full(30, 1 / 30), size=4).astype(float)
    pairs = ComparablePairs(s.time, s.event, s.risk)
    inverse = uno_weights(s.time, s.event, censoring_curve(s.time, s.event), 8.0)
    for row, c, u in zip(
        weights, harrell_c(pairs, weights), uno_c(pairs, inverse, weights), strict=True
    ):
        assert c == pytest.approx(loop(s.time, s.event, s.risk, row, np.ones(30)), abs=1e-12)
        assert u == pytest.approx(loop(s.time, s.event, s.risk, row, inverse), abs=1e-12)


def test_rules_for_ties():
    assert one([1, 2], [1, 0], [3, 3]) == 0.5  # equal risks
    assert one([2, 2], [1, 0], [3, 1]) == 1.0  # a censored time equal to an event's is later
    assert one([2, 2], [1, 0], [1, 3]) == 0.0
    assert np.isnan(one([2, 2], [1, 1], [3, 1]))  # two events at one time are no pair
    assert one([1, 2, 3], [1, 1, 1], [3, 2, 1]) == 1.0  # high risk means early
    assert one([1, 2, 3], [1, 1, 1], [1, 2, 3]) == 0.0  # and no sign is tried
    close = [3.0, np.nextafter(3.0, 4.0)]
    assert one([1, 2], [1, 0], close) == 0.0  # neighbouring floats are not equal


def test_undefined_without_pairs():
    assert np.isnan(one([1.0], [1], [0.5]))
    assert np.isnan(one([1, 2, 3], [0, 0, 0], [1, 2, 3]))
    assert np.isnan(one([1, 2, 3], [0, 0, 1], [1, 2, 3]))  # the event is last


def test_events_count_strictly_before_tau():
    time, event = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])
    curve = StepCurve(np.array([0.5]), np.array([0.5]))
    assert uno_weights(time, event, curve, 2.0).tolist() == [4.0, 0.0, 0.0]
    assert uno_weights(time, event, curve, 2.1).tolist() == [4.0, 4.0, 0.0]


def test_uno_by_hand_and_undefined_where_nothing_stays_uncensored():
    # G is 1 up to 2, where one of three is censored, then 2/3. Pairs of the event at 1, weight 1:
    # won against 3 bags; of the event at 3, weight 9/4: lost against one.
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, True])
    risk = np.array([9.0, 0.0, 1.0, 2.0])
    curve = censoring_curve(time, event)
    assert uno(time, event, risk, curve, 10.0) == pytest.approx(3 / (3 + 9 / 4), abs=1e-14)
    gone = StepCurve(np.array([2.0]), np.array([0.0]))
    assert np.isnan(uno(time, event, risk, gone, 10.0))
    assert uno(time, event, risk, gone, 2.0) == 1.0  # the event at 3 does not count


def test_a_hundred_thousand_bags_take_seconds_and_no_table_of_pairs():
    random = np.random.default_rng(0)
    time = np.round(random.exponential(100, 100_000), 1)
    event, risk = random.random(100_000) < 0.3, random.normal(size=100_000)
    tracemalloc.start()
    began = clock.process_time()
    value = one(time, event, risk)
    assert clock.process_time() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 400e6
    tracemalloc.stop()
    assert value == pytest.approx(0.5, abs=0.01)
    # Risks in the order of time: 1 but for censored bags at the time, and so the risk, of an event.
    table = life_table(time, event)
    pairs = (table.events * (table.at_risk - table.events)).sum()
    ties = (table.events * table.censored).sum()
    assert one(time, event, -time) == pytest.approx(1 - ties / 2 / pairs, abs=1e-14)


def test_discordance_of_a_bag_is_the_loss_of_its_pairs():
    time, event, risk = tied(3)[:3]
    wrong, pairs = np.zeros(60), np.zeros(60)
    for i in range(60):
        for j in range(60):
            if event[i] and (time[j] > time[i] or (time[j] == time[i] and not event[j])):
                lost = (risk[i] < risk[j]) + (risk[i] == risk[j]) / 2
                wrong[[i, j]] += lost
                pairs[[i, j]] += 1
    found = discordance(time, event, risk)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found, wrong / pairs, rtol=0, atol=1e-12)
    counted = pairs > 0
    mean = (found * pairs)[counted].sum() / pairs.sum()
    assert mean == pytest.approx(1 - one(time, event, risk), abs=1e-12)
    assert np.isnan(discordance(time, np.zeros(60, bool), risk)).all()
