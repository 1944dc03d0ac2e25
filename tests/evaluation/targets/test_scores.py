"""Scores of a whole task: names, what they are made of, reasons of what is undefined."""

import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from evaluation.mil.scores import evaluate_bags
from evaluation.targets.censoring import breslow, censoring_curve, kaplan_meier
from evaluation.targets.scores import METRICS, GradeScorer, SurvivalScorer, ValueScorer, score
from evaluation.targets.survival_scores import default_times
from evaluation.targets.tables import (
    BinnedCurves,
    CoxCurves,
    SurvivalReference,
    survival_table,
    value_table,
)
from tests.support.tied_times import peer, tied


def survival(seed=0, **options):
    s = tied(seed)
    baseline = breslow(s.train_time, s.train_event, np.zeros(len(s.train_time)))
    table = survival_table(s.time, s.event, s.risk, CoxCurves(baseline, s.risk))
    reference = SurvivalReference(s.train_time, s.train_event, np.arange(80.0) / 80)
    return s, SurvivalScorer(table, reference, **options)


def test_survival_scores_equal_scikit_survival():
    metrics = pytest.importorskip("sksurv.metrics")
    s, scorer = survival(4, times=tied(4).at[::-1])
    found = score(scorer)
    assert tuple(found.metrics) == METRICS["cox"] == METRICS["discrete_time"]
    assert found.undefined == {}
    train, test = peer(s.train_time, s.train_event), peer(s.time, s.event)
    curves = scorer.table.curves.at(s.at)
    auc, mean = metrics.cumulative_dynamic_auc(train, test, s.risk, s.at, tied_tol=0)
    tau = np.quantile(s.train_time, 0.9)
    expected = {
        "bag_c_index": metrics.concordance_index_censored(s.event, s.time, s.risk, 0)[0],
        "bag_c_index_ipcw": metrics.concordance_index_ipcw(train, test, s.risk, tau, 0)[0],
        "bag_ibs": metrics.integrated_brier_score(train, test, curves, s.at),
        "bag_td_auc": mean,
    }
    assert found.metrics == pytest.approx(expected, abs=1e-12)
    assert found.details["tau"] == tau and found.details["censoring"] == "training bags"
    rows = found.details["times"]
    assert [row["time"] for row in rows] == s.at.tolist()
    assert [row["auc"] for row in rows] == pytest.approx(auc, abs=1e-12)
    brier = metrics.brier_score(train, test, curves, s.at)[1]
    assert [row["brier"] for row in rows] == pytest.approx(brier, abs=1e-12)
    assert [row["at_risk"] for row in rows] == [(s.time >= t).sum() for t in s.at]


def test_risk_groups_are_cut_at_training_quantiles():
    s, scorer = survival(1, groups=3)
    record = scorer.details()["risk_groups"]
    assert record["cuts"] == pytest.approx(np.quantile(np.arange(80) / 80, [1 / 3, 2 / 3]))
    assert record["source"] == "training bags"
    low = s.risk < record["cuts"][0]
    first = record["groups"][0]
    assert (first["bags"], first["events"]) == (low.sum(), s.event[low].sum())
    assert first["median"] == kaplan_meier(s.time[low], s.event[low]).median()
    assert sum(row["bags"] for row in record["groups"]) == 60
    assert scorer.details()["log_rank"]["df"] == 2


def test_without_training_bags_everything_comes_from_the_scored_ones():
    s = tied(2)
    found = score(SurvivalScorer(survival_table(s.time, s.event, s.risk)))
    own = SurvivalReference(s.time, s.event, s.risk, "scored bags")
    same = score(SurvivalScorer(survival_table(s.time, s.event, s.risk), own))
    assert json.dumps(found.details) == json.dumps(same.details)
    assert found.details["censoring"] == found.details["risk_groups"]["source"] == "scored bags"
    assert found.details["tau"] == np.quantile(s.time, 0.9)
    assert found.details["risk_groups"]["cuts"] == [np.median(s.risk)]
    assert found.undefined == {"bag_ibs": "no survival probabilities are predicted"}
    assert np.isnan(found.metrics["bag_ibs"])


def test_scored_bags_move_neither_tau_nor_censoring_nor_cuts():
    s, scorer = survival(3)
    table = survival_table(s.time * 9, ~s.event, s.risk * 50)
    garbage = SurvivalScorer(table, scorer.reference)
    assert (garbage.tau, garbage.cuts.tolist()) == (scorer.tau, scorer.cuts.tolist())
    assert garbage.censoring.values.tolist() == scorer.censoring.values.tolist()


def test_default_times_are_deciles_of_events():
    time, event = np.arange(1.0, 23.0), np.arange(22) % 2 == 0
    deciles = default_times(time, event)
    assert deciles.tolist() == [3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert default_times(np.array([2.0, 2.0]), np.array([True, True])).tolist() == [2.0]
    assert default_times(time, np.zeros(22, bool)).size == 0


def undefined(time, event, risk, curves=None, reference=None, **options):
    table = survival_table(time, event, risk, curves)
    found = score(SurvivalScorer(table, reference, **options))
    nothing = {name for name, value in found.metrics.items() if np.isnan(value)}
    assert nothing == set(found.undefined) and all(found.undefined.values())
    json.dumps(found.details)  # plain numbers
    return found.undefined


def test_reasons_of_undefined_times():
    curves = BinnedCurves(np.full((3, 1), 0.5), [2.0])
    no_event = undefined([1, 2, 3], [0, 0, 0], [1, 2, 3], curves)
    assert no_event["bag_c_index"] == no_event["bag_c_index_ipcw"] == "no bag has an event"
    assert no_event["bag_ibs"] == "needs two times at least, got 0"
    assert no_event["bag_td_auc"] == "no bag has an event"
    alone = undefined([1.0], [1], [0.3], curves.rows(np.array([0])))
    assert "later time than a bag with an event" in alone["bag_c_index"]
    assert "no bag has an event before tau 1" in alone["bag_c_index_ipcw"]
    assert "no time has both" in alone["bag_td_auc"]
    late = undefined([1, 2, 3], [1, 1, 1], [1, 2, 3], curves, times=[9.0, 10.0])
    assert set(late) == {"bag_td_auc"} and "no time has both" in late["bag_td_auc"]
    never = undefined([1, 2, 3], [1, 1, 1], [1, 2, 3], curves, times=[])
    assert never["bag_ibs"] == "needs two times at least, got 0"
    assert set(never) == {"bag_ibs", "bag_td_auc"}
    gone = SurvivalReference(np.array([0.5, 1.5]), np.array([True, False]))
    reasons = undefined([1, 2, 3], [1, 1, 1], [1, 2, 3], curves, gone, times=[1, 2.5], tau=2.5)
    before = "the censoring curve of the training bags is 0 at"
    assert reasons["bag_c_index_ipcw"] == f"{before} an event before tau 2.5; give a smaller tau"
    assert reasons["bag_ibs"] == f"{before} a time that counts; give earlier times"
    assert set(reasons) == {"bag_c_index_ipcw", "bag_ibs"}  # the AUC at 1 is defined
    reasons = undefined([1, 2, 3], [0, 1, 1], [1, 2, 3], curves, gone, times=[2.5, 3.5])
    assert reasons["bag_td_auc"] == f"{before} the time of an event; give earlier times"
    assert reasons["bag_c_index_ipcw"] == "no bag has an event before tau 1.4"
    last = undefined([1, 1], [1, 1], [1, 2], None, gone, tau=1.2)
    assert "no bag has a later time than a bag with an event before" in last["bag_c_index_ipcw"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": [1, -1]}, "times must be numbers of at least 0"),
        ({"times": [np.nan]}, "at least 0"),
        ({"tau": 0.0}, "tau must be a time above 0"),
        ({"tau": np.nan}, "tau must be"),
        ({"groups": 1}, "at least 2 risk groups"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        survival(**options)


def test_values_are_means_over_targets():
    truth = np.array([[1, 10.0], [2, np.nan], [4, 30], [3, 20]])
    says = np.array([[1.5, 10], [2, 1e9], [3, 30], [3, 26]])
    found = score(ValueScorer(value_table(truth, says, ["a", "b"])))
    assert tuple(found.metrics) == METRICS["regression"]
    a, b = found.details["targets"].values()
    assert (a["bags"], b["bags"]) == (4, 3)
    assert (a["mae"], b["mae"]) == (0.375, 2.0)
    assert found.metrics["bag_mae"] == pytest.approx((0.375 + 2) / 2)
    # the root before the mean
    roots = np.sqrt([1.25 / 4, 36 / 3])
    assert found.metrics["bag_rmse"] == pytest.approx(roots.mean())
    assert found.metrics["bag_r2"] == pytest.approx(np.mean([1 - 1.25 / 5, 1 - 36 / 200]))


def test_one_constant_target_leaves_the_mean_undefined():
    truth = np.array([[1, 5.0], [2, 5], [4, 5]])
    says = truth + np.array([[1, 1], [0, 2], [0, 3]])
    found = score(ValueScorer(value_table(truth, says, ["a", "b"])))
    reason = "b: all 3 bags with a known value: 5"
    assert found.undefined == dict.fromkeys(("bag_r2", "bag_pearson", "bag_spearman"), reason)
    assert np.isfinite(found.details["targets"]["a"]["r2"])
    flat = score(ValueScorer(value_table([1, 2, 3], [7, 7, 7])))
    assert flat.undefined["bag_pearson"] == "0: all predictions are 7"
    assert "bag_r2" not in flat.undefined
    lone = score(ValueScorer(value_table([1], [2])))
    assert lone.undefined["bag_r2"] == "0: the only bag with a known value: 1"
    unknown = score(ValueScorer(value_table([np.nan], [2])))
    assert unknown.undefined["bag_mae"] == "0: no bag has a known value"


def test_grades():
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 4, 50), random.dirichlet(np.ones(4), 50)
    labels[:5] = -1
    found = score(GradeScorer(labels, scores))
    assert tuple(found.metrics) == METRICS["ordinal"]
    known, said = labels[5:], scores[5:].argmax(axis=1)
    kappa = cohen_kappa_score(known, said, weights="quadratic", labels=range(4))
    expected = evaluate_bags(known, scores[5:], "multiclass")
    expected |= {"bag_quadratic_kappa": kappa, "bag_mae": np.abs(known - said).mean()}
    assert found.metrics == pytest.approx(expected, abs=1e-12)
    assert found.details == {"grades": np.bincount(known, minlength=4).tolist()}
    one = score(GradeScorer([1, 1], [[0.1, 0.8, 0.1]] * 2))
    assert one.undefined["bag_quadratic_kappa"] == "all true and predicted grades are the same"
    assert one.undefined["bag_auroc"] == "needs bags of more than one grade"
    assert score(GradeScorer([-1], [[0.5, 0.5]])).undefined["bag_mae"] == "no bag has a known grade"
    with pytest.raises(ValueError, match="label 4"):
        GradeScorer([4], [[0.1, 0.8, 0.1]])


def test_censoring_of_the_training_bags_weights_the_scored_ones():
    s, scorer = survival(5)
    own = score(SurvivalScorer(scorer.table, tau=scorer.tau)).metrics
    theirs = score(scorer).metrics
    assert own["bag_c_index"] == theirs["bag_c_index"]
    assert abs(own["bag_c_index_ipcw"] - theirs["bag_c_index_ipcw"]) > 1e-6
    assert scorer.censoring.values.tolist() == (
        censoring_curve(s.train_time, s.train_event).values.tolist()
    )
