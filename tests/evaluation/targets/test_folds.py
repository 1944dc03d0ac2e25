"""Scores of folds by themselves, and the table of all of them."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.targets.bags import TargetPredictions
from evaluation.targets.censoring import breslow
from evaluation.targets.concordance import ComparablePairs, harrell_c
from evaluation.targets.folds import TargetFolds, TimeOptions, write_target_folds
from evaluation.targets.tables import BinnedCurves, CoxCurves, SurvivalReference

BAGS = 40


def labels_of(seed=0):
    random = np.random.default_rng(seed)
    return np.stack([random.integers(1, 30, BAGS), random.random(BAGS) < 0.6], axis=1).astype(float)


def times_of(task, shift=0.0):
    """Return two repeats of two folds; the risks of one model have another origin."""
    labels, random, folds = labels_of(), np.random.default_rng(1), {}
    for repeat in range(2):
        test = random.permutation(BAGS) < BAGS // 2
        for fold in range(2):
            own = np.flatnonzero(test == (fold == 0))
            risk = -np.log(labels[:, 0]) + random.normal(size=BAGS)
            risk += shift * (fold == 1)
            rest = np.setdiff1d(np.arange(BAGS), own)
            time, event = labels[rest].T
            curves = CoxCurves(breslow(time, event == 1, risk[rest]), risk[own])
            if task == "discrete_time":
                edges = [3.0 + fold, 9.0, 20.0]
                curves = BinnedCurves(np.exp(-np.outer(np.exp(risk[own]), edges) / 9), edges)
            reference = SurvivalReference(time, event == 1, risk[rest])
            ids = tuple(f"b{n}" for n in own)
            folds[repeat, fold] = TargetPredictions(
                task, ids, labels[own], risk[own], curves, reference=reference
            )
    return TargetFolds(task, labels, folds)


def test_no_score_compares_bags_of_two_models():
    plain, shifted = times_of("cox"), times_of("cox", shift=10.0)
    one, other = plain.scores(), shifted.scores()
    for name, summary in one.summary().items():
        np.testing.assert_allclose(other.summary()[name]["folds"], summary["folds"], atol=1e-9)
    assert other.details()["log_rank"] == one.details()["log_rank"]
    pooled = []
    for found in (plain, shifted):
        parts = [found.folds[0, fold] for fold in range(2)]
        time, event = np.concatenate([part.labels for part in parts]).T
        risk = np.concatenate([part.predictions for part in parts])
        pairs = ComparablePairs(time, event == 1, risk)
        pooled.append(float(harrell_c(pairs, np.ones((1, BAGS)))[0]))
    assert pooled[1] < pooled[0] - 0.05  # as a table of all bags would be scored


def test_folds_without_events_are_named_and_left_out_of_the_mean():
    found = times_of("cox")
    place = (1, 0)
    bags = found.folds[place]
    censored = bags.labels * [1.0, 0.0]
    found = replace(found, folds={**found.folds, place: replace(bags, labels=censored)})
    scores = found.scores()
    summary, undefined = scores.summary()["bag_c_index"], scores.details()["undefined"]
    assert np.isnan(summary["folds"][2]) and np.isfinite(summary["folds"]).sum() == 3
    assert summary["mean"] == pytest.approx(np.nanmean(summary["folds"]))
    assert undefined["bag_c_index"] == [{"repeat": 1, "fold": 0, "reason": "no bag has an event"}]
    # The Brier score is defined for censored bags.
    assert (1, 0) not in {(row["repeat"], row["fold"]) for row in undefined.get("bag_ibs", ())}
    nobody = replace(bags, labels=np.full_like(bags.labels, np.nan))
    found = replace(found, folds={**found.folds, place: nobody})
    details = found.scores().details()
    each = [row for rows in details["undefined"].values() for row in rows]
    named = [row["reason"] for row in each if (row["repeat"], row["fold"]) == place]
    assert named == ["no bag has a known target"] * 4
    assert len(details["tau"]) == 4 and details["tau"][2] is None
    assert np.isnan(details["times"][0]["brier"]["folds"][2])


@pytest.mark.parametrize("task", ["cox", "discrete_time"])
def test_columns_of_survival_are_the_scored_times(task, tmp_path):
    found = replace(times_of(task), options=TimeOptions(times=(8.0, 0.0, 2.5)))
    write_target_folds(tmp_path / "cv.csv", found)
    head, first, *_ = (tmp_path / "cv.csv").read_text().splitlines()
    assert head == "repeat,fold,bag_id,time,event,risk,survival_2.5,survival_8"
    bags = found.folds[0, 0]
    survival = bags.curves.at(np.array([2.5, 8.0]))[0]
    time, event = bags.labels[0].tolist()
    expected = [f"0,0,{bags.bag_ids[0]},{time!r},{event:.0f}", bags.predictions[0], *survival]
    assert first == ",".join([expected[0], *(repr(float(value)) for value in expected[1:])])


def test_times_are_those_of_all_bags_unless_given():
    found = times_of("cox")
    events = found.labels[found.labels[:, 1] == 1, 0]
    wanted = np.unique(np.quantile(events, np.arange(1, 10) / 10))
    np.testing.assert_array_equal(found.times, wanted)
    assert [row["time"] for row in found.scores().details()["times"]] == wanted.tolist()


@pytest.mark.parametrize(
    ("options", "task", "message"),
    [
        (TimeOptions(times=(3.0, float("nan"))), "cox", "times must be numbers of at least 0"),
        (TimeOptions(tau=0.0), "discrete_time", "tau must be a time above 0"),
        (TimeOptions(groups=1), "cox", "at least 2 risk groups"),
        (TimeOptions((1.0,), 2.0), "binary", "--times, --tau: have an effect on times alone"),
        (TimeOptions(groups=3), "ordinal", "--groups: have an effect on times alone, not on ord"),
    ],
)
def test_options_are_checked_before_work(options, task, message):
    with pytest.raises(ValueError, match=message):
        options.check(task)
    TimeOptions((1.0, 0.0), 2.0, 3).check("cox")
    TimeOptions().check(task)
