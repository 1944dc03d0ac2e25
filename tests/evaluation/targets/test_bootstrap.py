"""Intervals of targets: draws, strata, patients, coverage, paired comparison."""

import numpy as np
import pytest
from scipy.stats import norm

from evaluation.targets.bootstrap import (
    bootstrap_intervals,
    bootstrap_weights,
    compare_scores,
    units,
)
from evaluation.targets.censoring import breslow
from evaluation.targets.scores import GradeScorer, SurvivalScorer, ValueScorer, score
from evaluation.targets.tables import (
    CoxCurves,
    SurvivalReference,
    survival_table,
    value_table,
)
from tests.support.tied_times import tied


def survival(s, rows=slice(None), noise=0.0):
    baseline = breslow(s.train_time, s.train_event, np.zeros(len(s.train_time)))
    risk = s.risk[rows] + noise
    table = survival_table(s.time[rows], s.event[rows], risk, CoxCurves(baseline, risk))
    return SurvivalScorer(table, SurvivalReference(s.train_time, s.train_event), times=s.at, tau=9)


def values(rows=slice(None)):
    random = np.random.default_rng(0)
    truth = np.round(random.normal(size=(40, 2)), 1)
    truth[::7, 1] = np.nan
    says = truth + np.round(random.normal(size=(40, 2)), 1)
    return ValueScorer(value_table(truth[rows], np.nan_to_num(says)[rows]))


def grades(rows=slice(None)):
    random = np.random.default_rng(0)
    labels, scores = random.integers(-1, 3, 40), random.dirichlet(np.ones(3), 40)
    return GradeScorer(labels[rows], scores[rows])


@pytest.mark.parametrize("kind", ["survival", "values", "grades"])
def test_a_draw_scores_as_a_table_of_the_drawn_bags(kind):
    s = tied(6, scored=40)
    build = {"survival": lambda rows: survival(s, rows), "values": values, "grades": grades}[kind]
    scorer = build(slice(None))
    weights = np.concatenate(list(bootstrap_weights(scorer, (), 8, 0)))
    found = scorer.metrics(weights)
    for draw, row in enumerate(weights.astype(int)):
        slow = score(build(np.repeat(np.arange(40), row))).metrics
        assert {n: v[draw] for n, v in found.items()} == pytest.approx(slow, abs=1e-9, nan_ok=True)


def test_intervals_are_percentiles_of_the_draws_and_the_seed_decides():
    scorer = survival(tied(7))
    drawn = scorer.metrics(np.concatenate(list(bootstrap_weights(scorer, (), 200, 3))))
    intervals = bootstrap_intervals(scorer, draws=200, seed=3, level=0.9)
    for name, interval in intervals.items():
        assert interval == pytest.approx(tuple(np.quantile(drawn[name], [0.05, 0.95])), abs=1e-12)
    assert bootstrap_intervals(scorer, draws=200, seed=3, level=0.9) == intervals
    assert bootstrap_intervals(scorer, draws=200, seed=4, level=0.9) != intervals


def test_every_draw_keeps_events_grades_and_quartiles():
    s = tied(8)
    weights = np.concatenate(list(bootstrap_weights(survival(s), (), 50, 0)))
    assert (weights[:, s.event].sum(axis=1) == s.event.sum()).all()
    assert (weights.sum(axis=1) == 60).all() and weights.std() > 0.5
    scorer = grades()
    weights = np.concatenate(list(bootstrap_weights(scorer, (), 50, 0)))
    labels = np.random.default_rng(0).integers(-1, 3, 40)
    for grade in range(-1, 3):
        assert (weights[:, labels == grade].sum(axis=1) == (labels == grade).sum()).all()
    scorer = values()
    weights = np.concatenate(list(bootstrap_weights(scorer, (), 50, 0)))
    first = scorer.table.target[:, 0]
    upper = first >= np.quantile(first, 0.75)
    assert (weights[:, upper].sum(axis=1) == upper.sum()).all()


def test_patients_are_drawn_whole():
    s = tied(9)
    patients = [f"p{number // 3}" for number in range(60)]
    scorer = survival(s)
    weights = np.concatenate(list(bootstrap_weights(scorer, patients, 30, 0)))
    assert (weights[:, ::3] == weights[:, 1::3]).all() and (
        weights[:, ::3] == weights[:, 2::3]
    ).all()
    dead = s.event.reshape(20, 3).any(axis=1)
    assert (weights[:, ::3][:, dead].sum(axis=1) == dead.sum()).all()
    assert grades().strata(units(40, ["a"] * 40)).tolist() == [0]
    assert values().strata(units(40, ["a"] * 20 + ["b"] * 20)).tolist() in ([0, 3], [3, 0])
    assert units(3, ["b", "a", "b"]).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="2 patients for 60 bags"):
        bootstrap_intervals(scorer, patients=["a", "b"])


def test_an_unknown_first_value_is_a_stratum_of_its_own():
    truth = np.array([[np.nan, 1], [1, 1], [2, 2], [3, 3], [np.nan, 5]])
    scorer = ValueScorer(value_table(truth, np.ones((5, 2))))
    assert scorer.strata(np.arange(5)).tolist() == [4, 0, 2, 3, 4]
    alone = ValueScorer(value_table(np.full((2, 1), np.nan), np.ones((2, 1))))
    assert alone.strata(np.arange(2)).tolist() == [4, 4]


def test_what_is_undefined_has_no_interval():
    s = tied(0)
    scorer = SurvivalScorer(survival_table(s.time, s.event, s.risk))
    intervals = bootstrap_intervals(scorer, draws=20)
    assert np.isnan(intervals["bag_ibs"]).all()
    assert np.isfinite(intervals["bag_c_index"]).all()
    with pytest.raises(ValueError, match="draws >= 1"):
        bootstrap_intervals(scorer, draws=0)


def test_a_model_against_itself_and_against_noise():
    s = tied(10)
    same = compare_scores(survival(s), survival(s), draws=50)
    difference = same.differences["bag_c_index"]
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)
    noise = np.random.default_rng(0).normal(size=60) * 3
    found = compare_scores(survival(s), survival(s, noise=noise), draws=200)
    first = score(survival(s)).metrics["bag_c_index"]
    second = score(survival(s, noise=noise)).metrics["bag_c_index"]
    difference = found.differences["bag_c_index"]
    assert difference.value == pytest.approx(first - second)
    assert difference.low < difference.value < difference.high
    with pytest.raises(ValueError, match="as many bags"):
        compare_scores(survival(s), values())


def test_few_events_grades_and_values_are_named():
    s = tied(0)
    scorer = survival(s)
    some = np.flatnonzero(s.event)[:9]
    assert scorer.too_few(units(60, ())) == ""
    few = survival(s, np.concatenate((some, np.flatnonzero(~s.event))))
    assert few.too_few(units(few.count, ())).startswith("the event has 9 bags: intervals and")
    patients = ["a"] * few.count
    reason = few.too_few(units(few.count, patients), patients=True)
    assert "the event has 1 patient:" in reason and "10 patients with an event" in reason
    assert grades().too_few(units(40, ())).startswith("grade ")
    assert "target 1 has 3 bags" in values(slice(0, 4)).too_few(units(4, ()))
    assert "grade 0 has 0 bags" in GradeScorer([-1], [[0.5, 0.5]]).too_few(units(1, ()))


def drawn_times(count, of_patient, random):
    """Exponential times with hazard exp(risk); a patient's bags share time and half of the risk."""
    own = np.repeat(random.normal(size=count // of_patient), of_patient)
    death = np.repeat(random.exponential(size=count // of_patient), of_patient) * np.exp(-own)
    leave = np.repeat(random.exponential(3, count // of_patient), of_patient)
    noise = random.normal(size=count) * (of_patient > 1)
    return SurvivalScorer(survival_table(np.minimum(death, leave), death <= leave, own + noise))


def levels(count, of_patient, cuts, random):
    """Normal levels of which equally many lie between each two of the cuts, as draws keep them."""
    edges = np.concatenate(([0], norm.cdf(cuts), [1]))
    part = np.arange(count // of_patient) % (len(cuts) + 1)
    return np.repeat(norm.ppf(random.uniform(edges[part], edges[part + 1])), of_patient)


def erring(level, of_patient, random):
    """Levels that are wrong, in part alike for a patient's bags."""
    shared = np.repeat(random.normal(size=len(level) // of_patient), of_patient)
    return level + (shared + random.normal(size=len(level))) / 2


def drawn_values(count, of_patient, random):
    value = levels(count, of_patient, norm.ppf([0.25, 0.5, 0.75]), random)
    says = erring(value, of_patient, random)
    return ValueScorer(value_table(value[:, None], says[:, None]))


def drawn_grades(count, of_patient, random):
    cuts = [-0.7, 0.0, 0.7]
    level = levels(count, of_patient, cuts, random)
    says = np.searchsorted(cuts, erring(level, of_patient, random))
    return GradeScorer(np.searchsorted(cuts, level), np.eye(4)[says])


@pytest.mark.slow
@pytest.mark.parametrize("of_patient", [1, 2])
@pytest.mark.parametrize(
    ("drawn", "metric"),
    [
        (drawn_times, "bag_c_index"),
        (drawn_values, "bag_r2"),
        (drawn_grades, "bag_quadratic_kappa"),
    ],
)
def test_intervals_cover_the_truth(drawn, metric, of_patient):
    """Of bags, and of patients with two bags that are alike; the truth is that of many bags."""
    random, sets = np.random.default_rng(0), 120
    units_of_set = 80 if metric == "bag_c_index" else 160
    truth = score(drawn(100_000, of_patient, random)).metrics[metric]
    covered = 0
    for _ in range(sets):
        scorer = drawn(units_of_set * of_patient, of_patient, random)
        patients = [f"p{number // of_patient}" for number in range(scorer.count)]
        low, high = bootstrap_intervals(scorer, patients=patients, draws=150)[metric]
        covered += low <= truth <= high
    # 95 % and three standard deviations of a share of 120
    assert covered / sets == pytest.approx(0.95, abs=0.06)
