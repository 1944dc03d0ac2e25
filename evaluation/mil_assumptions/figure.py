"""Figure of the algorithmic unit tests: AUC of each model on training and test bags.

There is one panel per test and one line per model, from the area under the ROC curve of the
training bags (open circle) to the area of the test bags (one filled circle per seed). Below .5
(shaded), the test bags are ranked the wrong way round, which is the effect of a shortcut. For a
pass, both are to the right of the dotted line. Models that pass are at the top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.mil_assumptions.suite import SeedResult, Verdict, verdict_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    1: "1: one concept decides",
    2: "2: two concepts together",
    3: "3: presence, not frequency",
}
COLOURS: dict[Verdict, str] = {
    "PASS": "#2f6db5",
    "LEGAL-BUT-LIMITED": "#3f9c77",
    "INCONCLUSIVE": "#8b93a0",
    "VIOLATION": "#d1442f",
}


def plot_assumptions(results: Mapping[str, Sequence[SeedResult]]) -> Figure:
    """Plot training and test AUC by model and test.

    Args:
        results: results by model, one per test and seed.

    Raises:
        ValueError: there are no results.
    """
    from matplotlib.figure import Figure

    tests = sorted({result.test for found in results.values() for result in found})
    if not tests:
        raise ValueError("there are no results to draw")
    names = sorted(results, key=lambda name: rank(results[name]), reverse=True)
    figure = Figure(figsize=(3.2 + 2.5 * len(tests), 1.5 + 0.23 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(tests), sharey=True, squeeze=False)[0]
    for axes, test in zip(panels, tests, strict=True):
        axes.set_title(TITLES[test], fontsize=10)
        _prepare(axes, names)
        for row, name in enumerate(names):
            _line(axes, row, [result for result in results[name] if result.test == test])
    figure.legend(handles=_legend(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def rank(results: Sequence[SeedResult]) -> tuple[int, int, float]:
    """Return the sort key of a model: passed tests, violated tests (negative), mean test AUC."""
    verdicts = [
        verdict_of([result.vote for result in results if result.test == test])
        for test in sorted({result.test for result in results})
    ]
    mean = float(np.mean([result.test_auc for result in results])) if results else 0.0
    return verdicts.count("PASS"), -verdicts.count("VIOLATION"), mean


def _prepare(axes: Axes, names: Sequence[str]) -> None:
    axes.axvspan(-0.04, 0.5, color="#f4ebe8", zorder=0)
    axes.axvline(0.9, color="#b9c0c9", linewidth=0.8, linestyle=":", zorder=1)
    axes.set(xlim=(-0.04, 1.04), ylim=(len(names) - 0.4, -0.6), xlabel="AUC")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"], fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#e6e9ed", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _line(axes: Axes, row: int, results: Sequence[SeedResult]) -> None:
    if not results:
        return
    colour = COLOURS[verdict_of([result.vote for result in results])]
    train = float(np.mean([result.train_auc for result in results]))
    tested = [result.test_auc for result in results]
    ends = [train, *tested]
    axes.plot([min(ends), max(ends)], [row, row], color=colour, linewidth=1.4, alpha=0.5, zorder=2)
    axes.plot(tested, [row] * len(tested), **_filled(colour))
    axes.plot([train], [row], **_open(colour))


def _filled(colour: str) -> dict[str, Any]:
    style = {"marker": "o", "markersize": 4.5, "markeredgewidth": 0}
    return {"color": colour, "linestyle": "none", "alpha": 0.8, "zorder": 3, **style}


def _open(colour: str) -> dict[str, Any]:
    style = {"marker": "o", "markersize": 6.5, "markerfacecolor": "none", "markeredgewidth": 1.1}
    return {"color": colour, "linestyle": "none", "zorder": 4, **style}


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    points = [
        Line2D([], [], label="training bags, mean of seeds", **_open("black")),
        Line2D([], [], label="test bags, each seed", **_filled("black")),
    ]
    return points + [
        Line2D([], [], color=colour, linewidth=3, label=verdict.lower())
        for verdict, colour in COLOURS.items()
    ]
