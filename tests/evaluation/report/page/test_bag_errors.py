"""Errors of predicted times and values, against loops and Harrell's C."""

import numpy as np
import pytest

from evaluation.report.page.attention import answers, bag_mistakes, choose_bags, mistaken_bags
from evaluation.report.page.bag_errors import bag_errors, pairs_of_bags
from evaluation.report.page.content import Link
from evaluation.report.page.mil_scores import MilScores
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.scores import score


def times(count=40, seed=0):
    """Return times with ties, events, and risks of which some are equal."""
    random = np.random.default_rng(seed)
    time = random.integers(1, 15, count).astype(float)
    event = random.integers(0, 2, count).astype(float)
    risk = np.round(random.normal(size=count) - 0.2 * time, 1)
    time[3] = event[3] = np.nan
    return time, event, risk


def predictions(labels, values, task="cox", **more):
    names = tuple(f"b{n}" for n in range(len(labels)))
    return TargetPredictions(task, names, labels, values, **more)


def test_pairs_are_those_of_harrell():
    time, event, risk = times()
    wrong, pairs = pairs_of_bags(time, event, risk)
    by_loops = np.zeros((2, len(time)), dtype=int)
    for i in range(len(time)):
        for j in range(len(time)):
            later = time[j] > time[i] or (time[j] == time[i] and event[j] == 0)
            if event[i] == 1 and later:
                by_loops[:, [i, j]] += [[risk[j] > risk[i]] * 2, [1, 1]]
    np.testing.assert_array_equal([wrong, pairs], by_loops)
    assert (wrong[3], pairs[3]) == (0, 0)
    known = np.arange(len(time)) != 3
    apart = np.arange(len(time)) * 1e-6  # no equal risks
    bags = predictions(np.stack([time, event], axis=1)[known], (risk + apart)[known])
    wrong, pairs = pairs_of_bags(*bags.labels.T, bags.predictions)
    c = score(bags.scorer()).metrics["bag_c_index"]
    assert wrong.sum() / pairs.sum() == pytest.approx(1 - c)


def test_times_and_values_are_listed_by_their_errors():
    time, event, risk = times()
    bags = predictions(np.stack([time, event], axis=1), risk)
    found = bag_errors(bags)
    assert np.isnan(found.sizes[3])
    worst = int(np.nanargmax(found.sizes))
    wrong, pairs = pairs_of_bags(time, event, risk)
    assert found.told[worst] == f"{wrong[worst]} of {pairs[worst]}"

    labels = np.array([[1.0, 100], [2, 300], [3, np.nan], [np.nan, np.nan]])
    values = np.array([[1.5, 120], [2, 100], [3.25, 50], [1, 1]])
    found = bag_errors(predictions(labels, values, "regression", names=("size", "mass")))
    spread = np.nanstd(labels, axis=0)
    np.testing.assert_allclose(
        found.sizes[:3], [0.5 / spread[0], 200 / spread[1], 0.25 / spread[0]]
    )
    assert np.isnan(found.sizes[3])
    assert found.told == ("+0.5, +20", "+0, -200", "+0.25, ", ", ")
    constant = bag_errors(predictions(np.ones((2, 1)), np.array([[1.0], [4.0]]), "regression"))
    assert constant.sizes.tolist() == [0, 3]


@pytest.mark.parametrize("runs", [1, 2])
def test_the_lists_of_the_page(runs):
    labels = np.linspace(0, 9, 20)[:, None]
    made = []
    for run in range(runs):
        values = labels.copy()
        values[[4, 11 + run]] += [[5.0], [-7.0]]  # the others have no error
        found = predictions(labels, values, "regression", names=("size",))
        scores = type("Found", (), {"target": found, "task": "regression"})
        made.append(MilScores(f"r{run}", scores, 0.5, {}, {}))
    said = [answers(run) for run in made]
    (table,) = bag_mistakes(made, said, {"b4": "k4"})
    assert table.title == "Largest errors"
    assert table.columns == ("bag", *["run"] * (runs > 1), "truth", "prediction", "error")
    assert [str(getattr(row[0], "text", row[0])) for row in table.rows[:2]] == ["b11", "b4"]
    assert isinstance(table.rows[1][0], Link)
    assert table.rows[0][-1] == "-7"
    wanted = ["b11", "b4"] if runs == 1 else ["b11", "b4", "b12"]
    assert mistaken_bags(said) == wanted
    assert choose_bags(said, 6)[:2] == wanted[:2]
