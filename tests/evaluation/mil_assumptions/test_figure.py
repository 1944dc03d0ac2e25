"""Where the figure of the algorithmic unit tests puts its points."""

import pytest

from evaluation.mil_assumptions.figure import COLOURS, plot_assumptions, rank
from evaluation.mil_assumptions.suite import SeedResult

HONEST = [SeedResult(t, s, 1.0, 0.95 + 0.01 * s, "PASS", 1.0, None) for t in (1, 2) for s in (0, 1)]
CHEAT = [
    SeedResult(1, 0, 0.9, 0.0, "VIOLATION", 1.0, None),
    SeedResult(1, 1, 1.0, 0.1, "VIOLATION", 1.0, None),
    SeedResult(2, 0, 1.0, 0.92, "PASS", 1.0, None),
    SeedResult(2, 1, 0.8, 0.7, "LEGAL-BUT-LIMITED", 1.0, None),
]
RESULTS = {"cheat": CHEAT, "honest": HONEST}


def drawn(axes):
    """Return (x, y, colour) of each line of models in a panel, in the order of drawing."""
    lines = [line for line in axes.lines if line.get_linestyle() != ":"]
    return [([*line.get_xdata()], [*line.get_ydata()], line.get_color()) for line in lines]


def test_a_line_runs_from_training_to_test_bags():
    figure = plot_assumptions(RESULTS)
    first, second = figure.axes
    assert [axes.get_title()[0] for axes in (first, second)] == ["1", "2"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["honest", "cheat"]
    assert first.get_ylim()[0] > first.get_ylim()[1]  # the first one is at the top
    span, tested, train = drawn(first)[3:]
    assert span == ([0.0, 0.95], [1, 1], COLOURS["VIOLATION"])
    assert tested == ([0.0, 0.1], [1, 1], COLOURS["VIOLATION"])
    assert train == ([0.95], [1], COLOURS["VIOLATION"])
    assert drawn(second)[3][2] == COLOURS["INCONCLUSIVE"]  # its seeds differ
    assert drawn(second)[1] == ([0.95, 0.96], [0, 0], COLOURS["PASS"])
    filled, open_ = first.lines[-2:]
    assert (filled.get_markerfacecolor(), open_.get_markerfacecolor()) == (
        COLOURS["VIOLATION"],
        "none",
    )


def test_order_is_by_passes_then_violations_then_scores():
    assert rank(HONEST)[:2] == (2, 0)
    assert rank(CHEAT)[:2] == (0, -1)
    assert rank(CHEAT)[2] == pytest.approx((0.0 + 0.1 + 0.92 + 0.7) / 4)
    limited = [SeedResult(1, 0, 0.8, 0.8, "LEGAL-BUT-LIMITED", 1.0, None)]
    assert sorted([CHEAT, HONEST, limited], key=rank) == [CHEAT, limited, HONEST]


def test_a_model_without_a_result_of_a_test_leaves_its_line_empty():
    figure = plot_assumptions({"half": CHEAT[:2], "honest": HONEST})
    assert len(drawn(figure.axes[0])) == 6
    assert len(drawn(figure.axes[1])) == 3
    with pytest.raises(ValueError, match="no results"):
        plot_assumptions({"nothing": []})
