"""What the figures of times and values hold."""

import numpy as np
import pytest

from evaluation.report.plots import BLUE, ORANGE, save_figure
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.censoring import kaplan_meier
from evaluation.targets.figures import plot_kaplan_meier, plot_values, target_figures
from evaluation.targets.log_rank import log_rank
from evaluation.targets.tables import value_table


def times(count=80, groups=2, seed=0):
    random = np.random.default_rng(seed)
    group = np.arange(count) % groups
    death, leave = random.exponential(np.exp(-1.0 * group)), random.exponential(2, count)
    return np.minimum(death, leave) * 40, death <= leave, group


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_curves_bands_censored_bags_and_numbers_at_risk():
    time, event, group = times()
    figure = plot_kaplan_meier(time, event, group, title="test", unit="months")
    axes, table = figure.axes
    curves = [line for line in axes.get_lines() if line.get_drawstyle() == "steps-post"]
    marks = [line for line in axes.get_lines() if line.get_marker() == "+"]
    for number, (curve, mark, colour) in enumerate(zip(curves, marks, (BLUE, ORANGE), strict=True)):
        own = group == number
        found = kaplan_meier(time[own], event[own])
        np.testing.assert_allclose(curve.get_xdata()[1:], found.table.times)
        np.testing.assert_allclose(curve.get_ydata(), [1, *found.survival])
        assert curve.get_color() == colour
        assert sorted(mark.get_xdata()) == sorted(set(time[own & ~event]))
    assert len(axes.collections) == 2  # bands
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend[0] == f"low risk   {event[group == 0].sum()} of 40 with an event"
    assert legend[1].startswith("high risk")
    assert axes.get_title().startswith("test · log-rank p ")
    assert table.get_xlabel() == "time (months)"
    ticks = table.get_xticks()
    counts = [[str((time[group == g] >= t).sum()) for t in ticks] for g in range(2)]
    assert texts(table) == counts[0] + counts[1]
    assert [label.get_text() for label in table.get_yticklabels()] == ["low risk", "high risk"]
    assert ticks[0] == 0 and counts[0][0] == "40" and len(ticks) <= 7


def test_the_title_has_the_p_value():
    time, event, group = times()
    p = log_rank(time, event, group).p
    shown = plot_kaplan_meier(time, event, group).axes[0].get_title()
    assert shown == (f"log-rank p = {p:.4f}" if p >= 1e-4 else "log-rank p < 0.0001")
    apart = np.repeat([0, 1], 40)
    shown = plot_kaplan_meier(np.sort(time), np.ones(80, bool), 1 - apart).axes[0].get_title()
    assert shown == "log-rank p < 0.0001"


@pytest.mark.parametrize("groups", [3, 5])
def test_several_groups_and_one_without_bags(groups, tmp_path):
    time, event, group = times(groups=groups)
    keep = group != 1
    figure = plot_kaplan_meier(time[keep], event[keep], group[keep], groups=groups)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(legend) == groups and legend[1].endswith("no bags")
    assert ("middle risk" in legend[1]) == (groups == 3)
    assert save_figure(figure, tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.parametrize("event", [False, True])
def test_a_single_bag(event, tmp_path):
    one = np.array([3.0]), np.array([event]), np.array([1])
    figure = plot_kaplan_meier(*one)
    assert figure.axes[0].get_title() == "log-rank test undefined"
    save_figure(figure, tmp_path / "a.png")
    save_figure(plot_kaplan_meier(np.zeros(2), np.ones(2, bool), np.arange(2)), tmp_path / "b.png")


def test_a_panel_for_each_target(tmp_path):
    random = np.random.default_rng(0)
    truth = random.normal(size=(30, 4)) * [1, 100, 1, 1]
    truth[:10, 1], truth[:, 2], truth[:, 3] = np.nan, 2.0, np.nan
    figure = plot_values(value_table(truth, random.normal(size=(30, 4)), "abcd"), "values")
    panels = figure.axes
    assert len(panels) == 6 and not panels[4].axison
    assert len(panels[0].collections[0].get_offsets()) == 30
    assert len(panels[1].collections[0].get_offsets()) == 20
    assert panels[1].get_title().startswith("b\nR²") and "20 bags" in panels[1].get_title()
    assert panels[2].get_title() == "c\nR² - · r - · 30 bags"
    assert texts(panels[3]) == ["no known value"]
    assert panels[0].get_xlim() == panels[0].get_ylim()
    save_figure(figure, tmp_path / "a.png")
    save_figure(plot_values(value_table([3.0], [3.0])), tmp_path / "one.png")


def test_risks_by_time():
    time, event, group = times()
    found = TargetPredictions("cox", tuple(map(str, range(80))), np.stack((time, event), 1), group)
    found.labels[7] = np.nan  # unknown
    figures = target_figures(found, "val")
    assert list(figures) == ["survival", "targets"]
    (axes,) = figures["targets"].axes
    kept = np.arange(80) != 7
    for points, happened in zip(axes.collections, (True, False), strict=True):
        own = kept & (event == happened)
        wanted = np.stack((time[own], group[own]), 1)
        np.testing.assert_allclose(np.asarray(points.get_offsets()), wanted)
    (cut,) = axes.get_lines()
    assert cut.get_ydata() == [np.quantile(group[kept], 0.5)] * 2
    assert axes.get_title().startswith("val · C 0.")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == f"event   {event[kept].sum()} bags"
    assert "log-rank" in figures["survival"].axes[0].get_title()


def test_grades_by_true_grade():
    labels = np.array([0, 2, 0, -1, 2])
    says = np.array([[0.5, 0.5, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    found = TargetPredictions("ordinal", tuple("abcde"), labels, says, names=("low", "mid", "high"))
    (axes,) = target_figures(found)["targets"].axes
    points = [np.asarray(part.get_offsets()) for part in axes.collections]
    assert [part[:, 1].tolist() for part in points] == [[0, 0.5], [1.5, 2]]
    assert all(np.abs(part[:, 0] - k).max() < 0.5 for part, k in zip(points, (0, 2), strict=True))
    medians = [line.get_ydata()[0] for line in axes.get_lines()[1:]]
    assert medians == [0.25, 1.75]
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == ["low\n2 bags", "mid\n0 bags", "high\n2 bags"]
    assert axes.get_title() == "quadratic κ 0.857"  # 1 - 1 / 7
    nothing = TargetPredictions("ordinal", ("a",), np.array([-1]), says[:1])
    assert target_figures(nothing) == {}
