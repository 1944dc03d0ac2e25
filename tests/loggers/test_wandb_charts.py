"""W&B's own tables and charts, looked at before they are sent."""

import itertools

import numpy as np
import pytest

from loggers.wandb_charts import (
    MAX_LINES,
    MAX_POINTS,
    confusion_chart,
    line_chart,
    records_table,
    table,
)
from loggers.wandb_media import Media


def rows(chart):
    content = chart.table
    return [dict(zip(content.columns, row, strict=True)) for row in content.data]


def test_undefined_numbers_are_empty_cells_and_numpy_ones_plain():
    made = table(["a", "b"], [[np.float64(0.5), float("nan")], [np.int64(3), float("inf")]])
    assert made.data == [[0.5, None], [3, None]]
    assert type(made.data[1][0]) is int
    assert records_table([{"x": 1, "y": "z"}]).columns == ["x", "y"]


def test_a_media_cell_is_an_image_with_its_classes():
    import wandb

    mask = {"mask_data": np.ones((2, 2), dtype=np.uint8), "class_labels": {0: "none", 1: "cat"}}
    cell = table(["p"], [[Media(np.zeros((2, 2, 3), np.uint8), "c", {"truth": mask})]]).data[0][0]
    assert isinstance(cell, wandb.Image)
    assert cell._classes._class_set == [{"id": 0, "name": "none"}, {"id": 1, "name": "cat"}]


def test_long_curves_are_thinned_and_keep_their_ends():
    x = np.arange(1000.0)
    chart = line_chart({"long": (x, x * 2), "short": (x[:3], x[:3])}, "t", "recall")
    points = rows(chart)
    long = [(r["step"], r["lineVal"]) for r in points if r["lineKey"] == "long"]
    assert len(long) == MAX_POINTS
    assert (long[0], long[-1]) == ((0.0, 0.0), (999.0, 1998.0))
    assert all(y == 2 * x for x, y in long)
    assert max(b[0] - a[0] for a, b in itertools.pairwise(long)) <= 6
    assert [r["step"] for r in points if r["lineKey"] == "short"] == [0, 1, 2]


def test_a_chart_holds_a_limited_number_of_curves():
    x = np.arange(2.0)
    chart = line_chart({str(k): (x, x) for k in range(30)}, "t", "x")
    assert [r["lineKey"] for r in rows(chart)[::2]] == [str(k) for k in range(MAX_LINES)]


def test_confusion_rows_are_the_true_classes():
    chart = confusion_chart(np.array([[5, 2], [0, 3]]), ["a", "b"], "t")
    cells = [(r["Actual"], r["Predicted"], r["nPredictions"]) for r in rows(chart)]
    assert cells == [("a", "a", 5), ("a", "b", 2), ("b", "a", 0), ("b", "b", 3)]


@pytest.mark.parametrize("count", [1, 2])
def test_points_at_both_ends_of_tiny_curves(count):
    x = np.arange(float(count))
    assert len(rows(line_chart({"c": (x, x)}, "t", "x"))) == count
