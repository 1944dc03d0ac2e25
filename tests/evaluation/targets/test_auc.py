"""AUC over time against scikit-survival and by hand."""

import numpy as np
import pytest

from evaluation.targets.auc import cumulative_dynamic_auc, mean_auc
from evaluation.targets.censoring import StepCurve, censoring_curve, weighted_survival
from tests.support.tied_times import SETS, peer, tied


def auc(time, event, risk, times, curve):
    weights = np.ones((1, len(time)))
    return cumulative_dynamic_auc(
        np.asarray(time, float),
        np.asarray(event, bool),
        np.asarray(risk, float),
        np.asarray(times, float),
        curve,
        weights,
    )


@pytest.mark.parametrize("seed", SETS)
def test_equals_scikit_survival(seed):
    metrics = pytest.importorskip("sksurv.metrics")
    s = tied(seed)
    found = auc(s.time, s.event, s.risk, s.at, censoring_curve(s.train_time, s.train_event))
    train, test = peer(s.train_time, s.train_event), peer(s.time, s.event)
    theirs, mean = metrics.cumulative_dynamic_auc(train, test, s.risk, s.at, tied_tol=0)
    assert found[0] == pytest.approx(theirs, abs=1e-12)
    survival = weighted_survival(s.time, s.event, np.ones((1, len(s.time))), s.at)
    assert mean_auc(found, survival)[0] == pytest.approx(mean, abs=1e-12)


def test_by_hand():
    curve = StepCurve(np.array([2.0]), np.array([0.5]))
    # at 3: cases with weights 1 and 2, controls with risks 1 and 4
    found = auc([1, 2, 4, 5, 2.5], [1, 1, 1, 0, 0], [5, 1, 4, 1, 0], [3.0], curve)
    assert found[0, 0] == pytest.approx((1 * 2 + 2 * 0.5) / (3 * 2))


def test_undefined_without_cases_without_controls_and_without_weights():
    curve = censoring_curve([1, 2, 3], [1, 1, 1])
    found = auc([1, 2, 3], [1, 1, 1], [3, 2, 1], [0.5, 1.5, 3.0], curve)
    assert np.isnan(found[0, [0, 2]]).all() and found[0, 1] == 1
    gone = StepCurve(np.array([2.0]), np.array([0.0]))
    found = auc([1, 2, 3], [1, 1, 1], [3, 2, 1], [1.5, 2.5], gone)
    assert found[0, 0] == 1 and np.isnan(found[0, 1])


def test_the_mean_leaves_out_undefined_times():
    survival = np.array([[0.9, 0.7, 0.6, 0.2]])
    found = mean_auc(np.array([[np.nan, 0.5, np.nan, 1.0]]), survival)
    assert found[0] == pytest.approx((0.5 * 0.3 + 1.0 * 0.5) / 0.8)
    ends = mean_auc(np.array([[0.6, 0.5, np.nan, np.nan]]), survival)
    assert ends[0] == pytest.approx((0.6 * 0.1 + 0.5 * 0.2) / 0.3)
    assert np.isnan(mean_auc(np.full((1, 4), np.nan), survival))
    assert mean_auc(np.array([[0.7]]), np.array([[0.4]]))[0] == pytest.approx(0.7)
