"""Calibration against loops, scikit-learn, an optimiser and closed forms."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from evaluation.statistics.calibration import (
    calibration,
    fit_temperature,
    reliability,
    reliability_equal_mass,
    scaled,
    survival_calibration,
)
from evaluation.targets.censoring import breslow, kaplan_meier
from evaluation.targets.log_rank import risk_groups
from evaluation.targets.tables import BinnedCurves, CoxCurves, survival_table
from tests.support.tied_times import tied


def binary(seed=0, count=300, heat=2.0):
    """Labels of well calibrated probabilities whose logits are then multiplied by ``heat``."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=count) * 2
    return (random.random(count) < expit(logits)).astype(int), expit(heat * logits)


def several(seed=0, count=300, heat=2.0, classes=4):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, classes)) * 1.5
    labels = (random.random((count, 1)) > softmax(logits, 1).cumsum(axis=1)).sum(axis=1)
    return labels, softmax(heat * logits, 1)


def slow_errors(chance, true):
    """Expected and maximum calibration error, bin by bin."""
    places = np.array([min(int(15 * p), 14) for p in chance])
    gaps = [
        (np.mean(places == b), abs(chance[places == b].mean() - true[places == b].mean()))
        for b in range(15)
        if (places == b).any()
    ]
    return sum(share * gap for share, gap in gaps), max(gap for _, gap in gaps)


@pytest.mark.parametrize("seed", range(5))
def test_binary_equals_a_loop_and_scikit_learn(seed):
    labels, chance = binary(seed)
    found = calibration(labels, chance, "binary")
    assert (found["ece"], found["mce"]) == pytest.approx(slow_errors(chance, labels), abs=1e-12)
    assert found["brier"] == pytest.approx(brier_score_loss(labels, chance), abs=1e-12)
    assert found["log_loss"] == pytest.approx(log_loss(labels, chance), abs=1e-12)
    assert len(found["bins"]) == 15 and sum(b["count"] for b in found["bins"]) == 300
    assert found["undefined"] == {"temperature": "no validation bags are given"}


@pytest.mark.parametrize("seed", range(5))
def test_several_classes_equal_a_loop_and_scikit_learn(seed):
    labels, chance = several(seed)
    found = calibration(labels, chance, "multiclass")
    right = (chance.argmax(axis=1) == labels).astype(float)
    slow = slow_errors(chance.max(axis=1), right)
    assert (found["ece"], found["mce"]) == pytest.approx(slow, abs=1e-12)
    assert found["brier"] == pytest.approx(((chance - np.eye(4)[labels]) ** 2).sum(1).mean())
    assert found["log_loss"] == pytest.approx(log_loss(labels, chance, labels=range(4)))


@pytest.mark.parametrize("seed", range(3))
def test_errors_equal_torchmetrics(seed):
    kinds = {"ece": "l1", "mce": "max"}
    labels, chance = binary(seed)
    own = calibration(labels, chance, "binary")
    truth, given = torch.tensor(labels), torch.tensor(chance)
    for name, norm in kinds.items():
        other = binary_calibration_error(given, truth, n_bins=15, norm=norm)
        assert own[name] == pytest.approx(float(other), abs=1e-6)
    labels, chance = several(seed)
    own = calibration(labels, chance, "multiclass")
    truth, given = torch.tensor(labels), torch.tensor(chance)
    for name, norm in kinds.items():
        other = multiclass_calibration_error(given, truth, 4, n_bins=15, norm=norm)
        assert own[name] == pytest.approx(float(other), abs=1e-6)


@pytest.mark.parametrize(("make", "task"), [(binary, "binary"), (several, "multiclass")])
def test_the_temperature_of_logits_twice_too_large_is_2(make, task):
    for seed in range(3):
        fitted = fit_temperature(*make(seed, 4000), task)
        assert fitted.value == pytest.approx(2, rel=0.06)


def test_labels_of_a_multilabel_task_count_one_by_one():
    pairs = [binary(seed) for seed in (1, 2)]
    labels, chance = (np.stack(column, axis=1) for column in zip(*pairs, strict=True))
    found = calibration(labels, chance, "multilabel", (labels, chance))
    flat = calibration(labels.ravel(), chance.ravel(), "binary", (labels.ravel(), chance.ravel()))
    assert json.dumps(found) == json.dumps(flat)


@pytest.mark.parametrize("count", [7, 15, 300, 307])
def test_bins_of_equal_mass(count):
    random = np.random.default_rng(count)
    chance = random.permutation(np.linspace(0.02, 0.99, count)) ** 3
    labels = (random.random(count) < chance).astype(int)
    parts = np.array_split(np.argsort(chance), 15)  # as many in each, but for one
    gaps = [abs(chance[p].mean() - labels[p].mean()) * p.size for p in parts if p.size]
    found = reliability_equal_mass(chance, labels)
    assert found.size.sum() == count and np.ptp(found.size[found.size > 0]) <= 1
    if count % 15 == 0:  # otherwise another bin has the one more
        assert found.ece == pytest.approx(sum(gaps) / count, abs=1e-12)
        assert calibration(labels, chance, "binary")["ece_equal_mass"] == found.ece
    shuffled = random.permutation(count)
    again = reliability_equal_mass(chance[shuffled], labels[shuffled])
    assert again.ece == pytest.approx(found.ece, abs=1e-12)
    tied = reliability_equal_mass(np.round(chance, 1), labels)
    order = random.permutation(count)
    again = reliability_equal_mass(np.round(chance, 1)[order], labels[order])
    assert again.ece == pytest.approx(tied.ece, abs=1e-12)


def test_edges_of_bins():
    found = reliability([0.0, 1 / 15, 0.9999, 1.0], [0, 1, 1, 0])
    assert found.size.tolist() == [1, 1, *[0] * 12, 2]
    assert found.observed[[0, 1, 14]].tolist() == [0, 1, 0.5]
    assert np.isnan(found.predicted[2]) and found.gaps[2] == 0
    perfect = reliability([0.25] * 4, [0, 0, 0, 1])
    assert perfect.ece == perfect.mce == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_temperature_has_the_least_log_loss(seed):
    labels, chance = several(seed)

    def loss(logarithm):
        kept = log_softmax(np.log(chance) / np.exp(logarithm), axis=1)
        return -kept[np.arange(300), labels].mean()

    best = minimize_scalar(loss, bounds=(-3, 4), method="bounded", options={"xatol": 1e-9})
    found = fit_temperature(labels, chance, "multiclass")
    assert found.value == pytest.approx(np.exp(best.x), rel=1e-5)
    labels, chance = binary(seed)
    logits = np.log(chance) - np.log1p(-chance)

    def binary_loss(logarithm):
        sign = np.where(labels == 1, -1, 1)
        return np.logaddexp(0, sign * logits / np.exp(logarithm)).mean()

    best = minimize_scalar(binary_loss, bounds=(-3, 4), method="bounded", options={"xatol": 1e-9})
    found = fit_temperature(labels, chance, "binary")
    assert found.value == pytest.approx(np.exp(best.x), rel=1e-5)


@pytest.mark.parametrize(("make", "task"), [(binary, "binary"), (several, "multiclass")])
def test_the_temperature_of_validation_bags_mends_overconfidence(make, task):
    found = calibration(*make(1, 4000), task, make(2, 4000))
    assert found["temperature"] == pytest.approx(2.0, abs=0.15)  # the logits were doubled
    assert found["after"]["ece"] < found["ece"] / 2
    assert found["after"]["log_loss"] < found["log_loss"]
    assert found["undefined"] == {}


def test_scored_bags_do_not_move_the_temperature():
    labels, chance = binary(0)
    first = calibration(labels, chance, "binary", binary(5))
    second = calibration(1 - labels, chance, "binary", binary(5))
    assert first["temperature"] == second["temperature"]


def test_scaling_divides_logits():
    _, chance = several(0)
    assert scaled(chance, "multiclass", 1.0) == pytest.approx(chance, abs=1e-14)
    expected = softmax(np.log(chance) / 3, axis=1)
    assert scaled(chance, "multiclass", 3.0) == pytest.approx(expected, abs=1e-14)
    assert scaled([0.0, 0.5, 1.0, expit(4.0)], "binary", 2.0) == pytest.approx(
        [0.0, 0.5, 1.0, expit(2.0)]
    )
    assert scaled([[0.0, 0.2, 0.8]], "multiclass", 2.0)[0, 0] == 0


def test_no_temperature():
    right = fit_temperature([0, 1], [0.2, 0.9], "binary")
    assert np.isnan(right.value) and "predicted right" in right.note
    also = fit_temperature([0, 1], [[0.5, 0.5], [0.1, 0.9]], "multiclass")
    assert "predicted right" in also.note  # a tie costs the same at every temperature
    wrong = fit_temperature([0, 1], [0.9, 0.2], "binary")
    assert "no better than by equal" in wrong.note
    gone = fit_temperature([0, 1, 1], [0.2, 0.9, 0.0], "binary")
    assert "probability 0" in gone.note
    found = calibration([0, 1], [1.0, 0.5], "binary", ([0, 1], [0.9, 0.2]))
    assert np.isnan(found["log_loss"]) and np.isnan(found["temperature"])
    assert "after" not in found
    assert found["undefined"]["log_loss"] == "the probability of a true class is 0"


def test_an_impossible_class_and_a_certain_bag_do_not_move_the_temperature():
    labels, chance = [0, 0, 1, 0], [[0.9, 0.1, 0], [1, 0, 0], [0.8, 0.2, 0], [0.7, 0.3, 0]]
    found = fit_temperature(labels, chance, "multiclass")
    without = fit_temperature([0, 1, 0], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], "multiclass")
    assert found.note == "" and found.value == pytest.approx(without.value, rel=1e-12)


def test_a_temperature_of_exactly_one():
    # logit log 3: three of four are true, so nothing is to be mended
    found = fit_temperature([1, 1, 1, 0], [0.75] * 4, "binary")
    assert found.value == pytest.approx(1.0, abs=1e-12)


def test_survival_beside_the_kaplan_meier_curve():
    s = tied(1)
    baseline = breslow(s.time, s.event, s.risk)
    table = survival_table(s.time, s.event, s.risk, CoxCurves(baseline, s.risk))
    groups = risk_groups(s.risk, [np.median(s.risk)])
    record = survival_calibration(table, s.at, groups)
    curve = kaplan_meier(s.time, s.event)
    for row, t in zip(record["times"], s.at, strict=True):
        assert row["time"] == t and row["at_risk"] == (s.time >= t).sum()
        assert row["observed"] == curve.curve.at(t)
        assert (row["low"], row["high"]) == pytest.approx(
            [float(end) for end in curve.interval_at(t)], nan_ok=True
        )
        assert row["predicted"] == pytest.approx(table.curves.at(np.array([t])).mean())
        assert row["predicted"] == pytest.approx(row["observed"], abs=0.08)  # on its own bags
    assert [g["bags"] for g in record["groups"]] == [(groups == 0).sum(), (groups == 1).sum()]
    upper = record["groups"][1]["times"][2]
    own = groups == 1
    assert upper["observed"] == kaplan_meier(s.time[own], s.event[own]).curve.at(s.at[2])
    assert upper["predicted"] == pytest.approx(table.curves.at(s.at)[own, 2].mean())
    json.dumps(record)
    with pytest.raises(ValueError, match="predicted survival"):
        survival_calibration(survival_table(s.time, s.event, s.risk), s.at)


@pytest.mark.parametrize("last", [0, 1])
def test_survival_after_the_last_time_is_known_only_of_those_who_all_had_the_event(last):
    curves = BinnedCurves(np.full((3, 1), 0.5), [4.0])
    table = survival_table([1.0, 2.0, 3.0], [1, 1, last], [3.0, 2.0, 1.0], curves)
    at_end, later = survival_calibration(table, [3.0, 9.0])["times"]
    assert at_end["observed"] == pytest.approx(0 if last else 1 / 3)
    assert later["predicted"] == 0.5 and later["at_risk"] == 0
    found = [later[name] for name in ("observed", "low", "high")]
    assert found == pytest.approx([0 if last else np.nan, np.nan, np.nan], nan_ok=True)
