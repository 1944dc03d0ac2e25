"""Figures of calibration: predicted probabilities against how often they come true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.report.plots import BLUE, GREY, ORANGE
from evaluation.targets.figures import draw_kaplan_meier, group_colours, group_names
from evaluation.targets.survival_scores import SurvivalScorer
from structures import MILTask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_CLAIMS = {
    "binary": "probability of class 1",
    "multiclass": "probability of the most probable class",
    "multilabel": "probability of a label",
}


def plot_reliability(
    found: Mapping[str, Any], task: MILTask, title: str = "", unit: str = "bag", claim: str = ""
) -> Figure:
    """Plot the share that is true against the mean probability of each bin, above their numbers.

    Grey bars are the consistency band (Bröcker & Smith 2007): where the share of each bin of the
    probabilities as predicted would lie if they were right.

    Args:
        found: see `evaluation.statistics.calibration.calibration`; with ``after`` also at the
            temperature.
        task: ``binary``, ``multilabel``, or ``multiclass`` for classes and grades.
        title: title of the figure.
        unit: what is counted.
        claim: what the probabilities are of; empty for that of the task.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 5.9), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    series = [("as predicted", found, BLUE)]
    if "after" in found:
        series.append((f"temperature {found['temperature']:.3g}", found["after"], ORANGE))
    width = 0.9 / len(found["bins"]) / len(series)
    for number, (name, scores, colour) in enumerate(series):
        _bins(axes, scores["bins"], colour, f"{name}   ECE {scores['ece']:.3f}")
        size = np.array([row["count"] for row in scores["bins"]])
        middle = (np.arange(size.size) + 0.5) / size.size
        shift = (number - (len(series) - 1) / 2) * width
        counts.bar(middle + shift, size, width=width, color=colour)
    if "band" in found:
        _band(axes, found["bins"], found["band"])
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share that is true", title=title)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside upper center", fontsize=9, ncols=2, frameon=False)
    counts.set(
        xlabel=claim or _CLAIMS[task], ylabel=f"{unit}s" if task != "multilabel" else "labels"
    )
    counts.grid(alpha=0.25)
    return figure


def _band(axes: Axes, bins: Sequence[Mapping[str, Any]], band: Mapping[str, Any]) -> None:
    """Draw where the bins that are not empty would lie by chance."""
    predicted, low, high = (
        np.array(column, dtype=np.float64)
        for column in ([row["confidence"] for row in bins], band["low"], band["high"])
    )
    held = np.isfinite(low)
    axes.vlines(
        predicted[held], low[held], high[held], color=GREY, alpha=0.35, linewidth=7, zorder=0.5,
        label=f"{band['level']:.0%} by chance",
    )  # fmt: skip


def _bins(axes: Axes, bins: Sequence[Mapping[str, Any]], colour: str, label: str) -> None:
    """Draw the bins that are not empty; the area of a dot grows with its number of bags."""
    size = np.array([row["count"] for row in bins], dtype=np.float64)
    held = size > 0
    predicted = np.array([row["confidence"] for row in bins])[held]
    observed = np.array([row["frequency"] for row in bins])[held]
    axes.plot(predicted, observed, color=colour, linewidth=1.4, label=label)
    area = 15 + 85 * size[held] / size.max()
    axes.scatter(predicted, observed, s=area, color=colour, alpha=0.8, linewidths=0)


def plot_survival_calibration(
    scorer: SurvivalScorer, found: Mapping[str, Any], title: str = ""
) -> Figure:
    """Plot Kaplan-Meier curves of the risk groups beside observed against predicted survival.

    Each dot of the right panel is a scored time: the mean predicted survival of all bags or of a
    risk group, and their Kaplan-Meier curve with its 95 % interval.

    Args:
        scorer: scorer of bags with survival curves.
        found: see `evaluation.statistics.calibration.survival_calibration`, with ``groups``.
        title: title of the Kaplan-Meier curves.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.4, 4.3 + 0.24 * scorer.groups), layout="constrained")
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=[6.4, 5]))
    table = scorer.table
    draw_kaplan_meier(
        left, table.time, table.event, scorer.risk_groups(), groups=scorer.groups, title=title
    )
    axes = right.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    names, colours = group_names(scorer.groups), group_colours(scorer.groups)
    _beside(axes, found["times"], "black", "all")
    for part in found["groups"]:
        _beside(axes, part["times"], colours[part["group"]], names[part["group"]])
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set(xlabel="mean predicted survival", ylabel="Kaplan-Meier")
    axes.set_title("calibration at each scored time", fontsize=11)
    axes.set_box_aspect(1)
    axes.grid(alpha=0.25)
    axes.legend(loc="best", fontsize=9)
    return figure


def _beside(axes: Axes, rows: Sequence[Mapping[str, Any]], colour: Any, label: str) -> None:
    columns = ("predicted", "observed", "low", "high")
    predicted, observed, low, high = (np.array([row[c] for row in rows]) for c in columns)
    spread = np.nan_to_num(np.stack((observed - low, high - observed)), nan=0.0)
    axes.errorbar(
        predicted, observed, np.maximum(spread, 0.0), color=colour, label=label,
        marker="o", markersize=4, linewidth=1.2, elinewidth=0.9, capsize=2, alpha=0.85,
    )  # fmt: skip
