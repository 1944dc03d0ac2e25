"""Checks of times, values and curves."""

import numpy as np
import pytest

from evaluation.targets.censoring import breslow
from evaluation.targets.tables import (
    BinnedCurves,
    CoxCurves,
    SurvivalReference,
    reference_of,
    survival_table,
    value_table,
)


def test_wrong_times_events_and_risks_name_the_bag():
    good = [1.0, 2.0], [1, 0], [0.1, 0.2]
    assert survival_table(*good).event.tolist() == [True, False]
    for place, values, message in (
        (0, [1.0, -2.0], "bag 1 has the time -2.0"),
        (0, [np.nan, 2.0], "bag 0 has the time nan"),
        (0, [1.0, np.inf], "bag 1 has the time inf"),
        (1, [0, 2], "bag 1 has the event 2"),
        (2, [0.1, np.nan], "bag 1 has the risk nan"),
        (2, [0.1], "of at least one bag"),
    ):
        wrong = list(good)
        wrong[place] = values
        with pytest.raises(ValueError, match=message):
            survival_table(*wrong)
    with pytest.raises(ValueError, match="of at least one bag"):
        survival_table([], [], [])
    with pytest.raises(ValueError, match="2 bags but 1 survival curves"):
        survival_table(*good, BinnedCurves([[0.5]], [1.0]))


def test_wrong_curves():
    for survival, edges, message in (
        ([[0.5, 0.6]], [1, 2], "falling"),
        ([[0.5, -0.1]], [1, 2], "falling, in"),
        ([[0.5, np.nan]], [1, 2], "falling, in"),
        ([[0.5, 0.4]], [2, 2], "ascend"),
        ([[0.5, 0.4]], [0, 2], "above 0"),
        ([0.5, 0.4], [1, 2], r"survival \(n, K\)"),
    ):
        with pytest.raises(ValueError, match=message):
            BinnedCurves(survival, edges)
    assert BinnedCurves([[0.5, 0.5]], [1, 2]).at(np.array([1.5])).tolist() == [[0.5]]


def test_rows_are_those_bags():
    baseline = breslow([1.0, 2.0, 3.0], [1, 1, 1], np.zeros(3))
    risk = np.array([0.0, 1.0, 2.0])
    table = survival_table([1, 2, 3], [1, 0, 1], risk, CoxCurves(baseline, risk))
    some = table.rows(np.array([2, 0]))
    at = np.array([1.5, 2.5])
    assert some.time.tolist() == [3, 1] and some.event.tolist() == [True, True]
    assert (some.curves.at(at) == table.curves.at(at)[[2, 0]]).all()
    assert table.rows(np.array([True, False, False])).risk.tolist() == [0.0]
    values = value_table([[1, np.nan], [2, 3]], [[1, 2], [3, 4]], ["a", "b"])
    assert values.rows(np.array([1])).target.tolist() == [[2, 3]]


def test_the_reference_gives_tau_and_says_what_it_is():
    reference = SurvivalReference(np.arange(11.0), np.ones(11, bool))
    assert reference.tau == 9.0 and reference.source == "training bags"
    table = survival_table([1, 2], [1, 0], [3, 4])
    own = reference_of(table)
    assert own.source == "scored bags" and own.risk.tolist() == [3, 4]
    assert own.censoring.at([2.0]).tolist() == [0.0]


def test_wrong_values():
    assert value_table([1, 2], [3, 4]).names == ("0",)
    with pytest.raises(ValueError, match="bag 1 has the prediction"):
        value_table([1, 2], [3, np.nan])
    with pytest.raises(ValueError, match="bag 0 has the value"):
        value_table([[np.inf, 1]], [[3, 4]])
    with pytest.raises(ValueError, match="1 names for 2 targets"):
        value_table([[1, 2]], [[3, 4]], ["a"])
    with pytest.raises(ValueError, match=r"\(n, T\)"):
        value_table([[1, 2]], [[3, 4, 5]])
