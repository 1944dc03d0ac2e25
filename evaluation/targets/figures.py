"""Figures of times, values and grades: Kaplan-Meier curves of risk groups, predicted by true.

As in `evaluation.report.plots`, figures are created without pyplot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.report.plots import BLUE, GREY, ORANGE
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.censoring import (
    BoolArray,
    FloatArray,
    IntArray,
    KaplanMeier,
    kaplan_meier,
    numbers_at_risk,
)
from evaluation.targets.log_rank import LogRank, log_rank
from evaluation.targets.scores import GradeScorer, SurvivalScorer, ValueScorer, score
from evaluation.targets.tables import ValueTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

_COLUMNS = 3  # panels in a row of a scatter figure
_SPREAD = 0.36  # by which points of a grade are moved aside, in grades
_TICKS = 7  # most times in the table of numbers at risk


def plot_kaplan_meier(
    time: FloatArray,
    event: BoolArray,
    group: IntArray,
    *,
    groups: int = 2,
    title: str = "",
    unit: str = "",
) -> Figure:
    """Plot the Kaplan-Meier curve of each risk group above a table of the numbers at risk.

    Bands are pointwise 95 % intervals (`evaluation.targets.censoring.kaplan_meier`), crosses are
    censored bags, and the title has the p-value of the log-rank test. A group without bags is
    named in the legend and has no curve.

    Args:
        time: (n,) times.
        event: (n,) True for an event.
        group: (n,) risk group, 0 for the lowest risk.
        groups: number of groups.
        title: title of the figure.
        unit: unit of the times.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.3 + 0.24 * groups), layout="constrained")
    draw_kaplan_meier(figure, time, event, group, groups=groups, title=title, unit=unit)
    return figure


def draw_kaplan_meier(
    figure: FigureBase,
    time: FloatArray,
    event: BoolArray,
    group: IntArray,
    *,
    groups: int = 2,
    title: str = "",
    unit: str = "",
) -> None:
    """Draw what `plot_kaplan_meier` describes into a figure or a part of one."""
    axes, table = figure.subplots(2, 1, sharex=True, height_ratios=[10, 0.8 + 0.62 * groups])
    names, colours = group_names(groups), group_colours(groups)
    for number, (name, colour) in enumerate(zip(names, colours, strict=True)):
        own = group == number
        label = f"{name}   {int(event[own].sum())} of {int(own.sum())} with an event"
        if own.any():
            _curve(axes, kaplan_meier(time[own], event[own]), colour, label)
        else:
            axes.plot([], [], color=colour, label=f"{name}   no bags")
    axes.set(ylim=(-0.02, 1.04), ylabel="share without an event")
    axes.set_xlim(0, _end(time))
    axes.grid(alpha=0.25)
    axes.legend(loc="best", fontsize=9, framealpha=0.85)
    axes.tick_params(labelbottom=False)
    tested = log_rank(time, event, group)
    axes.set_title(" · ".join(part for part in (title, _p_value(tested)) if part), fontsize=11)
    _risk_table(table, axes, time, group, list(zip(names, colours, strict=True)))
    table.set_xlabel("time" + (f" ({unit})" if unit else ""))


def _end(time: FloatArray) -> float:
    return float(time.max()) * 1.02 or 1.0


def group_names(groups: int) -> list[str]:
    """Return the name of each risk group, the lowest first."""
    if groups == 2:
        return ["low risk", "high risk"]
    if groups == 3:
        return ["low risk", "middle risk", "high risk"]
    middle = [f"risk group {number}" for number in range(2, groups)]
    return ["risk group 1 (lowest)", *middle, f"risk group {groups} (highest)"]


def group_colours(groups: int) -> list[Any]:
    """Return the colour of each risk group, the lowest first."""
    if groups == 2:
        return [BLUE, ORANGE]
    from matplotlib import colormaps

    return [colormaps["viridis"](share) for share in np.linspace(0.0, 0.8, groups)]


def _p_value(tested: LogRank) -> str:
    if tested.note:
        return "log-rank test undefined"
    return "log-rank p < 0.0001" if tested.p < 1e-4 else f"log-rank p = {tested.p:.4f}"


def _curve(axes: Axes, found: KaplanMeier, colour: Any, label: str) -> None:
    def steps(values: FloatArray, first: float = 1.0) -> FloatArray:
        return np.concatenate(([first], values))

    times = steps(found.table.times, 0.0)
    axes.step(times, steps(found.survival), where="post", color=colour, label=label, linewidth=1.8)
    low, high = steps(found.low), steps(found.high)
    axes.fill_between(times, low, high, step="post", color=colour, alpha=0.17, linewidth=0)
    censored = found.table.censored > 0
    axes.plot(
        found.table.times[censored],
        found.survival[censored],
        linestyle="",
        marker="+",
        markersize=5,
        markeredgewidth=0.9,
        color=colour,
    )


def _risk_table(
    table: Axes, axes: Axes, time: FloatArray, group: IntArray, names: list[tuple[str, Any]]
) -> None:
    """Write how many bags of each group are at risk at the ticks of the axis of time."""
    ticks = [tick for tick in axes.get_xticks() if 0 <= tick <= _end(time)]
    ticks = ticks[:: -(-len(ticks) // _TICKS)]
    table.set(ylim=(len(names) - 0.4, -0.6), yticks=range(len(names)))
    table.set_xticks(ticks)
    table.set_yticklabels([name.partition(" (")[0] for name, _ in names], fontsize=9)
    for row, (label, (_, colour)) in enumerate(zip(table.get_yticklabels(), names, strict=True)):
        label.set_color(colour)
        for tick, count in zip(ticks, numbers_at_risk(time[group == row], ticks), strict=True):
            table.text(tick, row, str(count), ha="center", va="center", fontsize=9, color=colour)
    table.set_title("number at risk", fontsize=9, loc="left")
    table.tick_params(axis="y", length=0, pad=16)  # room for the numbers at 0
    for side in ("top", "right", "left"):
        table.spines[side].set_visible(False)


def plot_values(found: ValueTable, title: str = "") -> Figure:
    """Plot predicted against true values, one panel for each target.

    A dotted line marks equal values. The title of a panel has its R2, Pearson correlation and
    number of bags; bags whose value is unknown are left out.

    Args:
        found: values and predictions.
        title: title of the figure.
    """
    from matplotlib.figure import Figure

    count = len(found.names)
    wide, high = min(count, _COLUMNS), -(-count // _COLUMNS)
    figure = Figure(figsize=(3.9 * wide, 4.1 * high), layout="constrained")
    panels = figure.subplots(high, wide, squeeze=False).ravel()
    records = ValueScorer(found).details()["targets"]
    for column, (axes, name) in enumerate(zip(panels, found.names, strict=False)):
        truth, says = found.target[:, column], found.prediction[:, column]
        known = np.isfinite(truth)
        _scatter(axes, truth[known], says[known])
        record = records[name]
        scores = f"R² {_number(record['r2'])} · r {_number(record['pearson'])}"
        axes.set_title(f"{name}\n{scores} · {record['bags']} bags", fontsize=10)
    for axes in panels[count:]:
        axes.set_axis_off()
    figure.suptitle(title)
    return figure


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def _scatter(axes: Axes, truth: FloatArray, says: FloatArray) -> None:
    axes.set(xlabel="true", ylabel="predicted")
    axes.set_box_aspect(1)
    axes.grid(alpha=0.25)
    if not truth.size:
        axes.text(0.5, 0.5, "no known value", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    both = np.concatenate((truth, says))
    margin = 0.05 * float(np.ptp(both)) or 1.0
    ends = (float(both.min()) - margin, float(both.max()) + margin)
    axes.plot(ends, ends, color=GREY, linestyle=":", linewidth=1.2)
    axes.scatter(truth, says, s=16, color=BLUE, alpha=_opacity(truth.size), linewidths=0)
    axes.set(xlim=ends, ylim=ends)


def _opacity(points: int) -> float:
    return float(np.clip(6 / np.sqrt(points), 0.15, 0.8))


def target_figures(found: TargetPredictions, title: str = "") -> dict[str, Figure]:
    """Return the figures of a task: ``survival`` of times, and ``targets``, predicted by true.

    Neither a risk nor a grade is a value: `plot_risks` and `plot_grades` say what is drawn.  # A698

    Bags without a known target are left out; without any other there are no figures.

    Args:
        found: predictions of bags.
        title: title of the figures.
    """
    known = found.known
    if not known.any():
        return {}
    scorer = found.rows(known).scorer()
    if isinstance(scorer, SurvivalScorer):
        table, group = scorer.table, scorer.risk_groups()
        curves = plot_kaplan_meier(table.time, table.event, group, title=title)
        return {"survival": curves, "targets": plot_risks(scorer, title)}
    if isinstance(scorer, ValueScorer):
        return {"targets": plot_values(scorer.table, title)}
    assert isinstance(scorer, GradeScorer)
    return {"targets": plot_grades(scorer, found.names, title)}


def plot_risks(scorer: SurvivalScorer, title: str = "") -> Figure:
    """Plot the risk of each bag by its time, with a line at the cuts of the risk groups.

    Args:
        scorer: times and risks.
        title: title of the figure, followed by Harrell's C.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.3), layout="constrained")
    axes, table = figure.subplots(), scorer.table
    for happened, label, face in ((True, "event", ORANGE), (False, "censored", "none")):
        own = table.event == happened
        axes.scatter(
            table.time[own],
            table.risk[own],
            s=22,
            facecolors=face,
            edgecolors=ORANGE if happened else BLUE,
            linewidths=0 if happened else 1.0,
            alpha=_opacity(scorer.count),
            label=f"{label}   {int(own.sum())} bags",
        )
    for cut in scorer.cuts:
        axes.axhline(cut, color=GREY, linestyle=":", linewidth=1.2)
    axes.set(xlabel="time", ylabel="predicted risk")
    axes.set_xlim(0, _end(table.time))
    axes.grid(alpha=0.25)
    axes.legend(loc="best", fontsize=9, framealpha=0.85)
    _titled(axes, title, f"C {_number(score(scorer).metrics['bag_c_index'])}")
    return figure


def plot_grades(scorer: GradeScorer, names: Sequence[str] = (), title: str = "") -> Figure:
    """Plot the mean predicted grade of each bag by its true one.

    The mean is that of the predicted probabilities, sum_k k P(k). The bags of a grade lie side by
    side in their order, a bar is their median, and a dotted line marks equal grades.

    Args:
        scorer: grades and probabilities.
        names: names of the grades; numbers if empty.
        title: title of the figure, followed by the quadratic kappa of the most probable grades.
    """
    from matplotlib.figure import Figure

    table = scorer.table
    grades = table.probabilities.shape[1]
    shown = list(names) if len(names) == grades else [str(grade) for grade in range(grades)]
    means = table.probabilities @ np.arange(grades)
    figure = Figure(figsize=(2.6 + 1.1 * grades, 4.3), layout="constrained")
    axes = figure.subplots()
    axes.plot([-0.5, grades - 0.5], [-0.5, grades - 0.5], color=GREY, linestyle=":", linewidth=1.2)
    for grade in range(grades):
        own = np.sort(means[table.labels == grade])
        shown[grade] += f"\n{own.size} bags"
        if not own.size:
            continue
        place = grade + np.linspace(-_SPREAD, _SPREAD, own.size + 2)[1:-1]
        opacity = _opacity(means.size)
        axes.scatter(place, own, s=16, color=BLUE, alpha=opacity, linewidths=0)
        ends = [grade - _SPREAD, grade + _SPREAD]
        axes.plot(ends, [np.median(own)] * 2, color=ORANGE, linewidth=1.8)
    axes.set(xlabel="true grade", ylabel="mean predicted grade", xlim=(-0.5, grades - 0.5))
    axes.set(ylim=(-0.15, grades - 0.85), xticks=range(grades), yticks=range(grades))
    axes.set_xticklabels(shown)
    axes.set_yticklabels([name.partition("\n")[0] for name in shown])
    axes.grid(alpha=0.25, axis="y")
    _titled(axes, title, f"quadratic κ {_number(score(scorer).metrics['bag_quadratic_kappa'])}")
    return figure


def _titled(axes: Axes, title: str, scores: str) -> None:
    axes.set_title(" · ".join(part for part in (title, scores) if part), fontsize=11)
