"""Kaplan-Meier, censoring, Breslow and interpolation against peers and closed forms."""

import numpy as np
import pytest

from evaluation.targets.censoring import (
    breslow,
    censoring_curve,
    interpolated,
    kaplan_meier,
    life_table,
    numbers_at_risk,
    weighted_survival,
)
from tests.support.tied_times import SETS, peer, tied


@pytest.mark.parametrize("seed", SETS)
def test_equals_lifelines_and_scikit_survival(seed):
    lifelines = pytest.importorskip("lifelines")
    nonparametric = pytest.importorskip("sksurv.nonparametric")
    s = tied(seed)
    found = kaplan_meier(s.time, s.event)
    theirs = lifelines.KaplanMeierFitter().fit(s.time, s.event)
    assert found.curve.at(s.at) == pytest.approx(theirs.predict(s.at).to_numpy(), abs=1e-12)
    assert found.median() == theirs.median_survival_time_
    inside = found.survival > 0
    bands = theirs.confidence_interval_.loc[found.table.times[inside]].to_numpy()
    assert np.stack((found.low, found.high), 1)[inside] == pytest.approx(bands, abs=1e-10)
    times = np.concatenate(([0.0], s.time, s.at))
    peers = nonparametric.SurvivalFunctionEstimator().fit(peer(s.time, s.event))
    assert found.curve.at(times) == pytest.approx(peers.predict_proba(times), abs=1e-12)
    censored = nonparametric.CensoringDistributionEstimator().fit(peer(s.train_time, s.train_event))
    curve = censoring_curve(s.train_time, s.train_event)
    assert curve.at(times) == pytest.approx(censored.predict_proba(times), abs=1e-12)


@pytest.mark.parametrize("seed", SETS)
def test_baseline_equals_scikit_survival(seed):
    coxph = pytest.importorskip("sksurv.linear_model.coxph")
    s = tied(seed)
    theirs = coxph.BreslowEstimator().fit(s.risk, s.event, s.time)
    found = breslow(s.time, s.event, s.risk)
    hazard = theirs.cum_baseline_hazard_(found.times)
    assert np.exp(found.log_hazard) == pytest.approx(hazard, rel=1e-12)
    curves = theirs.get_survival_function(s.risk[:5])
    inside = s.at[s.at >= s.time.min()]
    expected = np.array([curve(inside) for curve in curves])
    assert found.survival(s.risk[:5], inside) == pytest.approx(expected, abs=1e-12)


def test_curves_by_hand():
    time = [1, 2, 2, 2, 3, 4]
    event = [1, 1, 1, 0, 0, 1]
    table = life_table(time, event)
    assert table.times.tolist() == [1, 2, 3, 4]
    assert table.at_risk.tolist() == [6, 5, 2, 1]
    assert table.events.tolist() == [1, 2, 0, 1]
    assert table.censored.tolist() == [0, 1, 1, 0]
    found = kaplan_meier(time, event)
    assert found.survival == pytest.approx([5 / 6, 1 / 2, 1 / 2, 0])
    assert found.median() == 2.0
    # events of time 2 leave before its censored bag: 1 of 3, then 1 of 2
    curve = censoring_curve(time, event)
    assert curve.values == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])
    assert curve.at([0, 1.99, 2, 2.5, 3, 99]) == pytest.approx([1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3])
    assert numbers_at_risk(time, [0, 2, 2.1, 4, 5]).tolist() == [6, 5, 2, 1, 0]


def test_the_curve_of_censoring_ends_at_0_if_the_largest_time_is_censored():
    curve = censoring_curve([1, 2, 3], [1, 1, 0])
    assert curve.values.tolist() == [1, 1, 0]
    assert curve.at([100.0]).tolist() == [0]


def test_intervals_before_the_first_event_and_at_0():
    found = kaplan_meier([1, 2, 3], [0, 1, 1], level=0.9)
    assert (found.low[0], found.high[0]) == (1, 1)
    assert np.isnan(found.low[-1]) and np.isnan(found.high[-1])
    wider = kaplan_meier([1, 2, 3], [0, 1, 1], level=0.99)
    assert wider.low[1] < found.low[1] < found.survival[1] < found.high[1] < wider.high[1]
    low, high = found.interval_at([0.0, 2.5])
    assert low[0] == high[0] == 1 and low[1] == found.low[1]
    assert np.isnan(kaplan_meier([1, 2], [0, 0]).median())


def test_intervals_contain_the_truth():
    # exponential times, a third censored; at the median of the truth
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        death, leave = random.exponential(1, 60), random.exponential(2, 60)
        found = kaplan_meier(np.minimum(death, leave), death <= leave)
        low, high = found.interval_at([np.log(2)])
        hits += low[0] <= 0.5 <= high[0]
    assert hits / 400 == pytest.approx(0.95, abs=0.03)


def test_weighted_curves_are_those_of_repeated_bags():
    s = tied(1)
    random = np.random.default_rng(0)
    weights = random.multinomial(60, np.full(60, 1 / 60), size=5)
    found = weighted_survival(s.time, s.event, weights.astype(float), s.at)
    for row, values in zip(weights, found, strict=True):
        taken = np.repeat(np.arange(60), row)
        slow = kaplan_meier(s.time[taken], s.event[taken])
        assert values == pytest.approx(slow.curve.at(s.at), abs=1e-12)


def test_the_baseline_without_risks_is_that_of_nelson_and_aalen():
    found = breslow([1, 2, 2, 3], [1, 1, 1, 0], np.zeros(4))
    assert found.times.tolist() == [1, 2]
    assert np.exp(found.log_hazard) == pytest.approx([1 / 4, 1 / 4 + 2 / 3])
    at = [0.5, 1, 1.5, 2, 9]
    hazard = np.array([0, 1 / 4, 1 / 4, 11 / 12, 11 / 12])
    assert found.survival([0.0, np.log(2)], at) == pytest.approx(
        np.exp(-np.outer([1, 2], hazard)), abs=1e-14
    )


def test_the_baseline_of_huge_risks_is_finite_and_moves_with_them():
    s = tied(2)
    near, far = (breslow(s.time, s.event, s.risk + shift) for shift in (0.0, 900.0))
    assert far.log_hazard + 900 == pytest.approx(near.log_hazard, abs=1e-9)
    assert far.survival(s.risk + 900, s.at) == pytest.approx(near.survival(s.risk, s.at), abs=1e-9)
    steep = breslow([1.0, 2.0], [1, 1], [-2000.0, 2000.0])
    assert steep.survival([-2000.0, 2000.0], [1.5, 2.0])[0].tolist() == [1.0, 1.0]
    assert np.isfinite(steep.log_hazard).all()


def test_a_baseline_without_events_keeps_everybody():
    found = breslow([1.0, 2.0], [0, 0], [0.3, 0.1])
    assert found.times.size == 0
    assert found.survival([5.0], [1.0, 9.0]).tolist() == [[1.0, 1.0]]


def test_survival_between_edges():
    survival, edges = [[0.8, 0.5], [0.2, 0.2]], [2.0, 4.0]
    found = interpolated(survival, edges, [0, 1, 2, 3, 4, 100])
    assert found == pytest.approx(
        np.array([[1, 0.9, 0.8, 0.65, 0.5, 0.5], [1, 0.6, 0.2, 0.2, 0.2, 0.2]])
    )
    at = np.linspace(0, 5, 40)
    assert found.shape == (2, 6)
    expected = np.interp(at, [0, 2, 4], [1, 0.8, 0.5])
    assert interpolated(survival, edges, at)[0] == pytest.approx(expected, abs=1e-14)
    assert interpolated([[0.4]], [2.0], [1.0]).tolist() == [[0.7]]  # a single bin
