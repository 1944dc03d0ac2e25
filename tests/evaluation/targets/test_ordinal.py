"""Metrics of grades against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from evaluation.mil.metrics import confusion
from evaluation.targets.ordinal import grade_error, quadratic_kappa

SETS = range(50)


@pytest.mark.parametrize("seed", SETS)
def test_equals_scikit_learn_also_where_grades_are_missing(seed):
    random = np.random.default_rng(seed)
    grades = int(random.integers(2, 7))
    true = random.integers(0, grades - 1, 40)  # the highest grade occurs nowhere
    said = np.clip(true + random.integers(-1, 2, 40), 0, grades - 2) if grades > 2 else true
    matrix = confusion(true, said, grades, np.ones((1, 40)))
    if grades > 2:
        expected = cohen_kappa_score(true, said, weights="quadratic", labels=range(grades))
        assert quadratic_kappa(matrix)[0] == pytest.approx(expected, abs=1e-12)
    assert grade_error(matrix)[0] == pytest.approx(np.abs(true - said).mean(), abs=1e-12)


def test_grades_keep_their_distance_where_one_between_is_missing():
    matrix = np.zeros((1, 4, 4))
    matrix[0, 0, 0], matrix[0, 3, 3], matrix[0, 0, 3], matrix[0, 1, 0] = 2, 2, 1, 1
    # w O = 9 + 1; margins: true 3, 1, 0, 2; said 3, 0, 0, 3
    expected = (3 * 3 * 9 + 1 * (3 * 1 + 3 * 4) + 2 * 3 * 9) / 6
    assert quadratic_kappa(matrix)[0] == pytest.approx(1 - 10 / expected)
    assert grade_error(matrix)[0] == pytest.approx((3 + 1) / 6)


def test_undefined_where_all_are_of_one_grade():
    alone = np.zeros((2, 3, 3))
    alone[0, 1, 1] = 5
    assert np.isnan(quadratic_kappa(alone)).all()  # the second holds nothing
    assert grade_error(alone)[0] == 0 and np.isnan(grade_error(alone)[1])
    apart = np.zeros((1, 3, 3))
    apart[0, 0, 2] = 5  # all wrong by the same step: no better than chance
    assert quadratic_kappa(apart)[0] == 0
