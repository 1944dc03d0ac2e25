"""What the figures of calibration hold."""

import numpy as np
import pytest

from evaluation.report.calibration import plot_reliability, plot_survival_calibration
from evaluation.report.plots import save_figure
from evaluation.statistics.calibration import calibration, survival_calibration
from evaluation.targets.survival_scores import SurvivalScorer
from evaluation.targets.tables import BinnedCurves, survival_table
from tests.support.tied_times import tied


def test_a_reliability_diagram_has_the_bins_and_those_at_the_temperature():
    random = np.random.default_rng(0)
    labels, chance = random.integers(0, 2, 80), random.uniform(0.1, 0.9, 80)
    plain = calibration(labels, chance, "binary")
    axes, counts = plot_reliability(plain, "binary").axes
    shown = [row for row in plain["bins"] if row["count"]]
    assert axes.get_lines()[1].get_xdata().tolist() == [row["confidence"] for row in shown]
    assert axes.get_lines()[1].get_ydata().tolist() == [row["frequency"] for row in shown]
    assert [bar.get_height() for bar in counts.patches] == [r["count"] for r in plain["bins"]]
    assert counts.get_xlabel() == "probability of class 1"
    [bars] = [c for c in axes.collections if c.get_label() == "95% by chance"]
    ends = [(low, high) for low, high in zip(plain["band"]["low"], plain["band"]["high"],
            strict=True) if np.isfinite(low)]  # fmt: skip
    assert [tuple(line[:, 1]) for line in bars.get_segments()] == ends
    assert [line[0, 0] for line in bars.get_segments()] == [row["confidence"] for row in shown]
    found = calibration(labels, chance, "binary", (labels, chance))
    figure = plot_reliability(found, "multilabel", unit="patient")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == f"as predicted   ECE {found['ece']:.3f}"
    assert names[1].startswith(f"temperature {found['temperature']:.3g}   ECE ")
    assert names[2] == "95% by chance"
    own = plot_reliability(plain, "binary", claim="score of a detection")
    assert own.axes[1].get_xlabel() == "score of a detection"
    assert len(figure.axes[1].patches) == 30 and figure.axes[1].get_ylabel() == "labels"


@pytest.mark.parametrize("groups", [2, 3])
def test_survival_stands_beside_its_kaplan_meier_curves(groups, tmp_path):
    s = tied(1)
    survival = np.sort(np.random.default_rng(0).random((60, 2)), axis=1)[:, ::-1]
    table = survival_table(s.time, s.event, s.risk, BinnedCurves(survival, [3, 40]))
    scorer = SurvivalScorer(table, groups=groups)
    found = survival_calibration(table, scorer.times, scorer.risk_groups())
    figure = plot_survival_calibration(scorer, found)
    curves, at_risk, beside = figure.axes
    assert curves.get_ylabel() == "share without an event" and at_risk.get_xlabel() == "time"
    lines = [container.lines[0] for container in beside.containers]
    parts = [found["times"], *(part["times"] for part in found["groups"])]
    assert len(lines) == groups + 1
    for line, rows in zip(lines, parts, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [row["predicted"] for row in rows])
        np.testing.assert_array_equal(line.get_ydata(), [row["observed"] for row in rows])
    save_figure(figure, tmp_path / "f.png", dpi=40)
