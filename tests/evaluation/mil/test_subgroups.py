"""Scores of subgroups against filtered scorers, slow draws and scikit-survival."""

from typing import ClassVar

import numpy as np
import pytest
from sksurv.metrics import brier_score, concordance_index_ipcw

from evaluation.mil.class_scorer import ClassScorer
from evaluation.mil.metrics import METRICS
from evaluation.mil.scores import evaluate_bags
from evaluation.mil.subgroups import NO_VALUE, subgroup_scores
from evaluation.statistics.bootstrap import bootstrap_intervals as class_intervals
from evaluation.targets.bootstrap import bootstrap_intervals
from evaluation.targets.log_rank import risk_groups
from evaluation.targets.scores import GradeScorer, SurvivalScorer, TargetScores, ValueScorer, score
from evaluation.targets.tables import (
    BinnedCurves,
    SurvivalReference,
    survival_table,
    value_table,
)
from tests.support.tied_times import peer, tied


def binary(count=120, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    return labels, np.clip(random.normal(0.4 + 0.2 * labels, 0.25), 0, 1)


def scorers():
    random = np.random.default_rng(1)
    labels, chance = binary()
    several = random.dirichlet(np.ones(3), 120)
    yield "binary", ClassScorer(labels, chance, "binary", 0.4)
    yield "multiclass", ClassScorer(random.integers(0, 3, 120), several, "multiclass")
    both = random.integers(0, 2, (120, 3))
    yield "multilabel", ClassScorer(both, random.random((120, 3)), "multilabel", 0.3)
    yield "ordinal", GradeScorer(random.integers(0, 3, 120), several)
    target = random.normal(size=(120, 2))
    target[::5, 1] = np.nan
    says = np.nan_to_num(target) + random.normal(size=(120, 2))
    yield "regression", ValueScorer(value_table(target, says, ("a", "b")))
    s = tied(3, 120)
    survival = np.sort(random.random((120, 2)), axis=1)[:, ::-1]
    table = survival_table(s.time, s.event, s.risk, BinnedCurves(survival, [4, 20]))
    yield "times", SurvivalScorer(table)


SCORERS = dict(scorers())
PATIENTS = tuple(f"p{n // 2}" for n in range(120))


@pytest.mark.parametrize("patients", [(), PATIENTS], ids=["bags", "patients"])
@pytest.mark.parametrize("kind", SCORERS)
def test_one_subgroup_is_the_whole(kind, patients):
    scorer = SCORERS[kind]
    found, gaps = subgroup_scores(scorer, ["x"] * 120, patients=patients, draws=50, seed=4)
    whole = bootstrap_intervals(scorer, patients=patients, draws=50, seed=4)
    assert found["x"]["metrics"] == score(scorer).metrics and found["x"]["bags"] == 120
    assert found["x"]["intervals"] == whole
    if kind in ("binary", "multiclass", "multilabel"):  # also those of the command for classes
        labels, chance, task = scorer.table
        words = {"threshold": scorer.threshold, "groups": patients, "draws": 50, "seed": 4}
        assert whole == class_intervals(labels, chance, task, **words)
        assert found["x"]["metrics"] == evaluate_bags(labels, chance, task, scorer.threshold)
    assert all(np.isnan(gap["gap"]) and gap["largest"] is None for gap in gaps.values())


@pytest.mark.parametrize("kind", SCORERS)
def test_subgroups_that_share_no_patient_are_drawn_by_themselves(kind):
    """Each has the intervals of the filtered table, up to the noise of other draws."""
    scorer, names = SCORERS[kind], np.where(np.arange(120) < 70, "a", "b")
    found, _ = subgroup_scores(scorer, names.tolist(), draws=1500)
    for name, part in found.items():
        alone = scorer.rows(names == name)
        assert part["metrics"] == score(alone).metrics
        if part["note"]:
            continue
        for metric, (low, high) in bootstrap_intervals(alone, draws=1500, seed=9).items():
            spread = 0.15 * (high - low) + 1e-9
            assert part["intervals"][metric] == pytest.approx((low, high), abs=spread), metric


def test_gaps_are_between_the_largest_and_the_smallest():
    labels, chance = binary()
    names = ["1", "2", "10", ""] * 30
    scorer = ClassScorer(labels, chance, "binary", 0.4)
    found, gaps = subgroup_scores(scorer, names, draws=400)
    assert list(found) == ["1", "2", "10", NO_VALUE]
    values = {n: found[n]["metrics"]["bag_auroc"] for n in ("1", "2", "10")}
    high, low = max(values, key=values.get), min(values, key=values.get)
    entry = gaps["bag_auroc"]
    assert (entry["largest"], entry["smallest"]) == (high, low)
    assert entry["gap"] == values[high] - values[low]
    # Slow: independent draws of both, within their classes.
    random, drawn = np.random.default_rng(0), []
    for _ in range(400):
        ends = []
        for name in (high, low):
            own = np.flatnonzero(np.array(names) == name)
            taken = np.concatenate([
                random.choice(own[labels[own] == c], (labels[own] == c).sum()) for c in (0, 1)
            ])  # fmt: skip
            ends.append(evaluate_bags(labels[taken], chance[taken], "binary", 0.4)["bag_auroc"])
        drawn.append(ends[0] - ends[1])
    assert entry["interval"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.05)


def test_patients_in_two_subgroups_are_drawn_once():
    """Two scanners see the same bags: whatever is drawn, the two do not differ."""
    labels, chance = binary(60)
    scorer = ClassScorer(np.tile(labels, 2), np.tile(chance, 2), "binary")
    patients = [f"p{n}" for n in range(60)] * 2
    found, gaps = subgroup_scores(scorer, ["a"] * 60 + ["b"] * 60, patients=patients, draws=50)
    assert found["a"]["intervals"] == found["b"]["intervals"]
    assert found["a"]["intervals"]["bag_auroc"][0] < found["a"]["metrics"]["bag_auroc"]
    for gap in gaps.values():
        assert gap["gap"] == 0 and gap["interval"] == (0, 0)
        assert (gap["largest"], gap["smallest"]) == ("a", "b")


class Seen(ClassScorer):
    """A scorer that keeps the weights of all draws by its number of bags."""

    kept: ClassVar = {}

    def rows(self, chosen):
        return Seen(self.table.labels[chosen], self.table.probabilities[chosen], "binary")

    def metrics(self, weights):
        Seen.kept[self.count] = weights
        return super().metrics(weights)


def test_draws_have_the_classes_of_each_subgroup_unless_patients_are_in_both():
    labels, chance = np.arange(60) // 3 % 2, np.linspace(0, 1, 60)
    names = ["a", "b", "b"] * 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.mil.subgroups.score", score_once := Once())
        subgroup_scores(Seen(labels, chance, "binary"), names, draws=30)
        assert set(Seen.kept[20].sum(axis=1)) == {20} and set(Seen.kept[40].sum(axis=1)) == {40}
        assert set((Seen.kept[20] * labels[::3]).sum(axis=1)) == {10}
        # The first two of three bags are of one patient, the third of another.
        patients = [f"p{n}" for k in range(20) for n in (2 * k, 2 * k, 2 * k + 1)]
        subgroup_scores(Seen(labels, chance, "binary"), names, patients=patients, draws=30)
    both, alone = Seen.kept[20], Seen.kept[40]
    assert (both == alone[:, ::2]).all()  # drawn together
    totals = both.sum(axis=1) + alone[:, 1::2].sum(axis=1)
    assert set(totals) == {40} and len(set(both.sum(axis=1))) > 3
    assert score_once.calls == 4


class Once:
    """`score` without a call of the metrics with weights of one."""

    calls = 0

    def __call__(self, scorer):
        self.calls += 1
        return TargetScores(dict.fromkeys(METRICS, 0.5), {}, {})


def test_small_subgroups_have_no_intervals_and_single_classes_no_auroc():
    labels, chance = binary()
    rare = np.flatnonzero(labels == 1)[:5]
    names = np.array(["rest"] * 120, dtype=object)
    names[rare] = "rare"
    found, gaps = subgroup_scores(ClassScorer(labels, chance, "binary"), names.tolist(), draws=20)
    assert "class 1 has 5 bags" in found["rare"]["note"] and found["rest"]["note"] is None
    assert np.isnan(found["rare"]["intervals"]["bag_accuracy"]).all()
    assert found["rare"]["undefined"]["bag_auroc"] == "needs bags of more than one class"
    assert found["rare"]["classes"] == [0, 5]
    assert np.isnan(gaps["bag_auroc"]["gap"])
    assert gaps["bag_accuracy"]["gap"] > 0 and np.isnan(gaps["bag_accuracy"]["interval"]).all()


def test_times_of_a_subgroup_keep_censoring_tau_times_and_cuts_of_all():
    s = tied(5, 90)
    survival = np.sort(np.random.default_rng(0).random((90, 2)), axis=1)[:, ::-1]
    table = survival_table(s.time, s.event, s.risk, BinnedCurves(survival, [3, 40]))
    training = SurvivalReference(s.train_time, s.train_event)  # without risks: cuts of the scored
    whole = SurvivalScorer(table, training, times=s.at, tau=6.0)
    names = np.where(np.arange(90) % 3 > 0, "a", "b")
    found, _ = subgroup_scores(whole, names.tolist(), draws=2)
    train = peer(s.train_time, s.train_event)
    for name, part in found.items():
        own = names == name
        test = peer(s.time[own], s.event[own])
        uno = concordance_index_ipcw(train, test, s.risk[own], tau=6.0, tied_tol=0)[0]
        assert part["metrics"]["bag_c_index_ipcw"] == pytest.approx(uno, abs=1e-12)
        inside = s.at[(s.at >= s.time[own].min()) & (s.at < s.time[own].max())]
        scores = brier_score(train, test, table.curves.at(inside)[own], inside)[1]
        by_time = {row["time"]: row["brier"] for row in part["times"]}
        assert [by_time[t] for t in inside] == pytest.approx(scores, abs=1e-12)
        member = risk_groups(s.risk, whole.cuts)[own]
        assert part["risk_groups"]["cuts"] == whole.cuts.tolist()
        bags = [group["bags"] for group in part["risk_groups"]["groups"]]
        assert bags == np.bincount(member, minlength=2).tolist()
        assert not {"tau", "censoring"} & part.keys()


def test_subgroups_without_events_or_known_values():
    s = tied(2)
    names = np.where(s.event, "dead", "alive").tolist()
    names[0] = "one"
    scorer = SurvivalScorer(survival_table(s.time, s.event, s.risk))
    found, gaps = subgroup_scores(scorer, names, draws=5)
    assert found["alive"]["undefined"]["bag_c_index"] == "no bag has an event"
    assert np.isnan(found["one"]["metrics"]["bag_c_index"])
    assert np.isnan(gaps["bag_c_index"]["gap"])
    target = np.array([[1.0], [2.0], [np.nan], [np.nan]])
    scorer = ValueScorer(value_table(target, np.zeros((4, 1))))
    found, _ = subgroup_scores(scorer, ["a", "a", "b", "b"], draws=5)
    assert found["a"]["metrics"]["bag_mae"] == 1.5
    assert found["b"]["undefined"]["bag_mae"] == "0: no bag has a known value"


def test_lengths_and_draws_are_checked():
    with pytest.raises(ValueError, match="a value for each of 120 bags"):
        subgroup_scores(SCORERS["binary"], ["a"] * 3)
    with pytest.raises(ValueError, match="draws >= 1"):
        subgroup_scores(SCORERS["binary"], ["a"] * 120, draws=0)
