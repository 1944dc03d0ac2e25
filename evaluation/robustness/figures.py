"""Figure of a robustness summary: heat maps of the cells and curves over severity."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.robustness.grid import Grid
from evaluation.robustness.names import EXTRA, GROUPS, SEVERITIES
from evaluation.robustness.scores import FloatArray, Summary, array_of, main_metric
from evaluation.robustness.tables import models_by_task, number, ordered, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

_ACROSS = 4  # heat maps in a row
_MISSING = "#d9dde2"


def plot_robustness(grids: Mapping[str, Grid], summary: Summary) -> Figure:
    """Draw a heat map for each model and curves over severity for each group of corruptions.

    The metric is the main one of the first task: mask AP, else box AP, else that of bags. A curve
    is the mean over the corruptions of a group; own corruptions and shifts of bags have a panel
    each. Severity 0 is clean. Cells without a value are grey.

    Args:
        grids: model -> cells.
        summary: what the cells say, for the titles.

    Raises:
        ValueError: there are no cells of clean or corrupted data.
    """
    from matplotlib.figure import Figure

    by_task = models_by_task(grids)
    if not by_task:
        raise ValueError("the tables have no cell of clean or corrupted data that could be drawn")
    task, models = next(iter(by_task.items()))
    metric = str(main_metric(grids, task))
    names = ordered(grids, task)
    values = {model: array_of(grids[model], metric, names) for model in models}
    panels = _panels(names, {} if task == "bag" else GROUPS)
    columns = min(5 if len(models) > 1 else 3, max(len(panels), 1))  # of curves
    maps, curves = -(-len(models) // _ACROSS), -(-len(panels) // columns) or 1
    heights = [maps * (1.1 + 0.23 * max(len(names), 3)), curves * 2.5 + 0.3 + 0.1 * len(models)]
    width = max(6.5, 2.0 + 3.1 * min(_ACROSS, len(models)), 2.6 * columns)
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=heights)
    _draw_maps(parts[0], values, names, summary.metrics, metric)
    _draw_curves(parts[1], values, panels, metric, columns)
    return figure


def _panels(
    names: Sequence[str], known_groups: Mapping[str, Sequence[str]]
) -> dict[str, list[int]]:
    """Return the rows of each panel of curves by its title."""
    groups = {group: [n for n in own if n in names] for group, own in known_groups.items()}
    groups["extra"] = [name for name in names if known_groups and name in EXTRA]
    known = {name for own in groups.values() for name in own}
    groups |= {name.replace("_", " "): [name] for name in names if name not in known}
    return {title: [names.index(n) for n in own] for title, own in groups.items() if own}


def _from_zero(metric: str) -> bool:
    """Return whether axes and colours begin at 0: AP does, metrics of bags have other floors."""
    return not metric.startswith("bag_")


def _draw_maps(
    figure: FigureBase,
    values: Mapping[str, tuple[float, FloatArray]],
    names: Sequence[str],
    metrics: Mapping[str, Mapping[str, float]],
    metric: str,
) -> None:
    from matplotlib import colormaps

    every = np.concatenate([[clean, *found.ravel()] for clean, found in values.values()])
    known = every[np.isfinite(every)]
    low, high = float(known.min()), float(known.max())
    if _from_zero(metric):
        low = 0.0
    high = high if high > low else low + 1
    across = min(_ACROSS, len(values))
    panels = figure.subplots(-(-len(values) // across), across, squeeze=False, sharey=True)
    colours = colormaps["viridis"].with_extremes(bad=_MISSING)
    drawn: Any = None
    for axes, (model, (_, found)) in zip(panels.flat, values.items(), strict=False):
        shown = np.ma.masked_invalid(found)
        drawn = axes.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect="auto")
        for (row, column), value in np.ndenumerate(found):
            dark = np.isfinite(value) and (value - low) / (high - low) < 0.6
            ink = "white" if dark else "black"
            axes.text(column, row, number(value), ha="center", va="center", color=ink, fontsize=8)
        axes.set_xticks(range(len(SEVERITIES)), [str(s) for s in SEVERITIES])
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.tick_params(length=0)
        means = [f"{word} {number(metrics[model].get(f'{metric}_{key}'), 3)}"
                 for word, key in (("clean", "clean"), ("mPC", "mpc"), ("rPC", "rpc"))]  # fmt: skip
        axes.set_title("\n".join([*textwrap.wrap(model, 30), " · ".join(means)]), fontsize=9)
        axes.set_xlabel("severity", fontsize=9)
    for axes in panels.flat[len(values) :]:
        axes.set_axis_off()
    figure.colorbar(drawn, ax=panels, label=title_of(metric), shrink=0.8, pad=0.01)


def _draw_curves(
    figure: FigureBase,
    values: Mapping[str, tuple[float, FloatArray]],
    groups: Mapping[str, Sequence[int]],
    metric: str,
    columns: int,
) -> None:
    lines = -(-len(groups) // columns) or 1
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    levels = np.array([0, *SEVERITIES])
    for axes, (group, rows) in zip(panels.flat, groups.items(), strict=False):
        for number_, (model, (clean, found)) in enumerate(values.items()):
            style: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.5}
            line = np.array([clean, *found[list(rows)].mean(axis=0)])
            known = np.isfinite(line)
            label = model if axes is panels.flat[0] else None
            axes.plot(levels[known], line[known], color=f"C{number_ % 10}", label=label, **style)
        axes.set_title(group, fontsize=10)
        axes.set_xticks((0, *SEVERITIES))
        axes.set_xlabel("severity (0: clean)", fontsize=9)
        axes.grid(alpha=0.25)
    for axes in panels.flat[len(groups) :]:
        axes.set_axis_off()
    for row in panels:
        row[0].set_ylabel(title_of(metric), fontsize=9)
    if _from_zero(metric):
        panels[0, 0].set_ylim(bottom=0.0)
    if len(values) > 1 and groups:
        figure.legend(loc="outside lower center", fontsize=9, ncols=2, frameon=False)
