"""The log-rank test and risk groups against peers and by hand."""

import numpy as np
import pytest

from evaluation.targets.log_rank import log_rank, risk_cuts, risk_groups
from tests.support.tied_times import SETS, peer, tied


@pytest.mark.parametrize("seed", SETS)
def test_equals_lifelines_and_scikit_survival(seed):
    statistics = pytest.importorskip("lifelines.statistics")
    compare = pytest.importorskip("sksurv.compare")
    s = tied(seed)
    group = risk_groups(s.risk, risk_cuts(s.risk, 2 + seed % 3))
    found = log_rank(s.time, s.event, group)
    theirs = statistics.multivariate_logrank_test(s.time, group, s.event)
    assert found.df == len(set(group.tolist())) - 1
    assert found.statistic == pytest.approx(theirs.test_statistic, rel=1e-10)
    assert found.p == pytest.approx(theirs.p_value, rel=1e-10)
    statistic, p = compare.compare_survival(peer(s.time, s.event), group)
    assert (found.statistic, found.p) == pytest.approx((statistic, p), rel=1e-10)


def test_by_hand():
    # At 1: 1 of 4 dies, of group 0. At 2: 1 of 3 dies, of group 0. At 3: group 1 alone is left.
    found = log_rank([1, 2, 3, 4], [1, 1, 1, 0], [0, 0, 1, 1])
    apart = 2 - (2 / 4 + 1 / 3)
    variance = 1 / 4 + (1 / 3) * (2 / 3)
    assert found.statistic == pytest.approx(apart**2 / variance)
    assert found.df == 1 and found.note == ""
    assert found.record() == {"statistic": found.statistic, "df": 1, "p": found.p}


def test_undefined_for_one_group_and_where_groups_never_meet():
    alone = log_rank([1, 2, 3], [1, 1, 0], [1, 1, 1])
    assert "one risk group" in alone.note
    assert alone.record() == {"statistic": None, "df": None, "p": None}
    apart = log_rank([1, 2, 3, 4], [0, 0, 1, 1], [0, 0, 1, 1])
    assert "at which two risk groups are at risk" in apart.note
    assert apart.record() == {"statistic": None, "df": 1, "p": None}
    assert log_rank([1, 2], [0, 0], [0, 1]).note
    assert log_rank([5.0], [1], [0]).note


def test_a_group_that_leaves_before_the_first_event_changes_nothing_but_the_degrees():
    time, event, group = [1, 2, 3, 4, 0.5], [1, 1, 1, 1, 0], [0, 1, 0, 1, 2]
    found, without = log_rank(time, event, group), log_rank(time[:4], event[:4], group[:4])
    assert found.statistic == pytest.approx(without.statistic, abs=1e-12)
    assert (found.df, without.df) == (2, 1)


def test_equal_hazards_give_uniform_p_values():
    random = np.random.default_rng(0)
    values = []
    for _ in range(400):
        time, event = random.integers(1, 20, 60), random.random(60) < 0.6
        values.append(log_rank(time, event, random.integers(0, 3, 60)).p)
    assert np.mean(np.array(values) < 0.1) == pytest.approx(0.1, abs=0.045)
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)


def test_groups_are_cut_at_quantiles_and_a_risk_at_a_cut_goes_up():
    training = np.arange(9.0)
    assert risk_cuts(training).tolist() == [4.0]
    assert risk_cuts(training, 4).tolist() == [2.0, 4.0, 6.0]
    assert risk_groups([3.9, 4.0, 4.1], [4.0]).tolist() == [0, 1, 1]
    assert risk_groups([-9, 2, 5, 99], [2.0, 4.0, 6.0]).tolist() == [0, 1, 2, 3]
    assert set(risk_groups(np.full(5, 2.0), risk_cuts(np.full(5, 2.0), 3)).tolist()) == {2}
    with pytest.raises(ValueError, match="at least 2 groups"):
        risk_cuts(training, 1)
