"""The simulations behind the tables of "Comparing two models": what they draw, a row of each."""

import numpy as np
import pytest

from benchmarks import compare_coverage
from evaluation.seg.coco import evaluate_results


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_a_row_has_a_value_for_each_column():
    row = cells(compare_coverage.simulate((5, 6), (1.2, 0.8), sets=3, draws=5))
    assert len(row) == len(cells(compare_coverage._HEADER[0]))
    assert row[:2] == ["5 positive, 6 negative", "0.088"]  # Phi(1.2 / sqrt 2) - Phi(.8 / sqrt 2)
    row = cells(compare_coverage.simulate_images(8, (1.0, 1.4), sets=3, draws=5))
    assert len(row) == len(cells(compare_coverage._IMAGE_HEADER[0]))
    assert row[0] == "8"
    assert all(0 <= float(value) <= 1 for value in row[2:5])


def test_the_second_model_is_worse_by_its_slack_alone():
    values = []
    for slacks in ((1.0, 1.0), (1.0, 1.4)):
        truth, *results = compare_coverage.data_set(np.random.default_rng(0), 200, slacks)
        values.append([evaluate_results(truth, rows).metrics["box_map"] for rows in results])
    assert values[0][0] == pytest.approx(values[0][1], abs=0.03)
    assert values[1][0] - values[1][1] > 0.04
