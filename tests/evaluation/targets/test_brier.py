"""The Brier score of survival against scikit-survival and by hand."""

import numpy as np
import pytest

from evaluation.targets.brier import brier_scores, brier_terms, integrated
from evaluation.targets.censoring import StepCurve, breslow, censoring_curve
from tests.support.tied_times import SETS, peer, tied


@pytest.mark.parametrize("seed", SETS)
def test_equals_scikit_survival(seed):
    metrics = pytest.importorskip("sksurv.metrics")
    s = tied(seed)
    curve = censoring_curve(s.train_time, s.train_event)
    survival = breslow(s.time, s.event, s.risk).survival(s.risk, s.at)
    terms = brier_terms(s.time, s.event, survival, s.at, curve)
    found = brier_scores(terms, np.ones((1, len(s.time))))
    train, test = peer(s.train_time, s.train_event), peer(s.time, s.event)
    assert found[0] == pytest.approx(metrics.brier_score(train, test, survival, s.at)[1], abs=1e-12)
    theirs = metrics.integrated_brier_score(train, test, survival, s.at)
    assert integrated(found, s.at)[0] == pytest.approx(theirs, abs=1e-12)


def test_by_hand_with_a_bag_that_is_censored_before():
    time, event = np.array([1.0, 2.0, 5.0]), np.array([True, False, True])
    curve = StepCurve(np.array([1.0, 2.0]), np.array([0.8, 0.4]))
    survival = np.array([[0.3], [0.9], [0.6]])
    terms = brier_terms(time, event, survival, np.array([3.0]), curve)
    assert terms[:, 0] == pytest.approx([0.3**2 / 0.8, 0, 0.4**2 / 0.4])
    found = brier_scores(terms, np.ones((1, 3)))
    assert found[0, 0] == pytest.approx((0.3**2 / 0.8 + 0.4**2 / 0.4) / 3)
    # an event at the time itself has happened
    at_it = brier_terms(time, event, survival, np.array([5.0]), curve)
    assert at_it[2, 0] == pytest.approx(0.6**2 / 0.4)


def test_a_half_everywhere_scores_a_quarter():
    time, event = np.arange(1.0, 9.0), np.ones(8, bool)
    times = np.array([2.5, 6.0])
    terms = brier_terms(time, event, np.full((8, 2), 0.5), times, censoring_curve(time, event))
    found = brier_scores(terms, np.ones((1, 8)))
    assert found.tolist() == [[0.25, 0.25]]
    assert integrated(found, times).tolist() == [0.25]
    assert integrated(np.array([[0.1, 0.3, 0.2]]), np.array([0.0, 1.0, 3.0]))[0] == (
        pytest.approx((0.2 * 1 + 0.25 * 2) / 3)
    )


def test_undefined_where_a_weight_is_needed_and_nobody_is_uncensored():
    time, event = np.array([1.0, 4.0]), np.array([True, True])
    gone = StepCurve(np.array([3.0]), np.array([0.0]))
    terms = brier_terms(time, event, np.full((2, 3), 0.5), np.array([2.0, 3.0, 4.0]), gone)
    found = brier_scores(terms, np.ones((1, 2)))[0]
    assert found[0] == 0.25
    assert np.isnan(found[1:]).all()  # a bag that lives on at 3, an event after 3
    none_left = brier_terms(time[:1], event[:1], np.full((1, 1), 0.5), np.array([9.0]), gone)
    assert none_left.tolist() == [[0.25]]  # no weight at 9 is needed
    assert np.isnan(integrated(found[None], np.array([2.0, 3.0, 4.0])))
    assert np.isnan(integrated(np.array([[0.2]]), np.array([1.0])))
