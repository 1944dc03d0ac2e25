"""Strata of folds, splits and samplers where the target is a time, a value or a grade."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datamodules.mil.samplers import BatchPlan
from datamodules.mil.splits import SplitOptions, choose_splits, folds_of
from datamodules.mil.targets.strata import drawn_by, stratum_labels, unlabelled


def bags(labels, task, groups=()):
    return SimpleNamespace(
        path=Path("bags.x"), labels=np.asarray(labels), task=task, groups=tuple(groups),
        published_folds=None, named_splits=(),
    )  # fmt: skip


def times(events, seed=0):
    time = np.random.default_rng(seed).exponential(size=len(events))
    return np.stack([time, np.asarray(events, dtype=float)], axis=1)


def test_a_patient_has_an_event_if_one_of_his_bags_has():
    labels = times([0, 1, 0, 0])
    assert stratum_labels(labels, "cox", "ppqr").tolist() == [1, 1, 0, 0]
    assert stratum_labels(labels, "discrete_time").tolist() == [0, 1, 0, 0]


def test_quartiles_of_the_mean_of_a_patients_first_values():
    values = np.array([[1.0, 9], [3, 9], [4, 9], [np.nan, 9], [6, 9], [8, np.nan]])
    # means 2, 4, unknown, 6, 8: quartiles at 3.5, 5, 6.5
    assert stratum_labels(values, "regression", "ppqrst").tolist() == [0, 0, 1, 4, 2, 3]


def test_classes_and_grades_are_their_own():
    labels = np.array([2, 0, -1])
    assert stratum_labels(labels, "ordinal", "ppq") is labels


def test_bags_without_any_label():
    nan = np.nan
    assert unlabelled(np.array([[nan, nan], [1, nan]])).tolist() == [True, False]
    assert unlabelled(np.array([0, -1])).tolist() == [False, True]


def test_folds_and_held_out_bags_have_equal_shares_of_events_by_patient():
    events = np.arange(60) % 12 < 3  # every fourth patient of three bags
    groups = [f"p{k // 3}" for k in range(60)]
    data = bags(times(events), "cox", groups)
    folds = folds_of(data, 5, 0, 0)
    assert [int(events[folds == f].sum()) for f in range(5)] == [3] * 5
    assert all(len({int(folds[k]) for k in range(60) if groups[k] == g}) == 1 for g in set(groups))
    for mask in choose_splits(data, SplitOptions(test_fraction=0.2, val_fraction=0.25)).values():
        assert events[mask].mean() == 0.25


def test_test_bags_do_not_change_what_training_draws():
    labels = times(np.arange(40) % 2)
    values = np.arange(40.0)[:, None]
    chosen = list(range(0, 40, 2))
    for task, known in (("cox", labels), ("regression", values)):
        other = known.copy()
        other[1::2] = 1e6
        first, second = (drawn_by(array, task, (), chosen) for array in (known, other))
        assert np.array_equal(first, second)
    kinds = drawn_by(values, "regression", (), chosen)
    assert np.bincount(kinds[chosen]).tolist() == [5, 5, 5, 5]


def test_class_samplers_draw_equally_many_bags_with_an_event():
    events = np.arange(64) % 8 == 0
    kinds = drawn_by(times(events), "cox", (), range(64))
    sizes = np.ones(64, dtype=np.int64)
    plan = BatchPlan(8, "balanced_batches")
    for batch in plan.build(range(64), kinds, sizes, None, 0):
        assert sum(events[key.index] for key in batch) == 4
    epoch = [k.index for b in BatchPlan(8, "class_balanced").build(range(64), kinds, sizes, None, 0)
             for k in b]  # fmt: skip
    assert 28 <= events[epoch].sum() <= 32  # up to one round of repeats
    with pytest.raises(ValueError, match="class_weights weighs classes"):
        BatchPlan(8, "weighted", (1.0, 2.0)).check_classes(1, named=False)


def test_unlabelled_bags_can_only_be_predicted():
    splits = choose_splits(bags(np.full((4, 2), np.nan), "cox"), SplitOptions())
    assert splits["predict"].all() and not splits["train"].any()
