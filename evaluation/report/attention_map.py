"""Attention over the patches of a bag of slides, drawn at their places.

Figures are created without pyplot; matplotlib and scipy are imported when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from evaluation.report.plots import GREY, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.5, 5.2  # inches
TOP = 12  # patches that are listed
NAME = 24  # letters of a slide's name above its map
MAPS = 4  # slides of a patient that are drawn
RED = "#d62728"


def plot_attention_map(
    attention: Values,
    coords: Values,
    instance_labels: Values | None = None,
    title: str = "",
    slides: Sequence[tuple[str, slice]] = (),
) -> Figure:
    """Plot the attention of one bag at its patches' places and list the patches with the most.

    Every patch is a square with an outline, from its top left corner; the side is `patch_side`. The
    colours begin at 0, so that even attention looks even. Listed patches have red outlines, and the
    list says which are witnesses. The slides of a patient have a map each, in the same colours; of
    more than four, those with the highest attention are drawn (A672).

    Args:
        attention: (n,) weights that sum to 1.
        coords: (n, 2) x and y of the top left corners, in pixels of level 0; NaN where unknown.
        instance_labels: (n,) with values above 0 for witnesses and below 0 for unknown, or None.
        title: title of the figure.
        slides: name and patches of each slide of the bag; empty for one slide.

    Raises:
        ValueError: no patches, or lengths that differ.
    """
    from matplotlib.figure import Figure

    weights, corners = np.asarray(attention, np.float64), np.asarray(coords, np.float64)
    if weights.ndim != 1 or not weights.size or corners.shape != (weights.size, 2):
        raise ValueError(
            f"a map needs attention (n,) with n >= 1 and coords (n, 2), got {weights.shape} and "
            f"{corners.shape}"
        )
    witness = None if instance_labels is None else np.asarray(instance_labels) > 0
    top = np.argsort(-weights, kind="stable")[:TOP]
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    maps, listed = figure.subfigures(1, 2, width_ratios=[3.0, 2.0], squeeze=False)[0]
    shown = _shown(weights, corners, slides)
    columns = 1 if len(shown) < 3 else 2
    grid = maps.subplots(-(-len(shown) // columns), columns, squeeze=False)
    drawn, table = None, listed.subplots()
    for axes, (name, rows) in zip(grid.flat, shown, strict=False):
        listed_here = top[np.isin(top, rows)]
        drawn = _draw(axes, weights[rows], corners[rows], corners[listed_here], weights.max())
        axes.set_title(name, fontsize=8)
        if len(shown) > 1:
            axes.set(xlabel="", ylabel="")
    for axes in grid.flat[len(shown) :]:
        axes.axis("off")
    bar = maps.colorbar(drawn, ax=grid, shrink=0.7, location="left")
    bar.set_label(f"attention (uniform: {1 / weights.size:.2g})", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _list(table, weights, corners, top, witness, slides)
    figure.suptitle(f"{title} · {_counted(weights.size, len(slides), len(shown))}", fontsize=11)
    return figure


def _counted(patches: int, slides: int, shown: int) -> str:
    text = f"{patches} patch{'es' * (patches > 1)}"
    if slides < 2:
        return text
    return f"{text} of {slides} slides" + f", {shown} of them drawn" * (shown < slides)


def _shown(
    weights: Values, corners: Values, slides: Sequence[tuple[str, slice]]
) -> list[tuple[str, Values]]:
    """Return title and patches of each map."""
    every = np.arange(len(weights))
    if len(slides) < 2:
        return [("", every)]
    placed = [
        (f"{n}: {name if len(name) <= NAME else f'{name[: NAME - 3]}...'}", every[rows])
        for n, (name, rows) in enumerate(slides, start=1)
        if np.isfinite(corners[rows]).all()
    ]
    most = sorted(range(len(placed)), key=lambda k: -weights[placed[k][1]].max())[:MAPS]
    return [placed[k] for k in sorted(most)]


def _draw(
    axes: Axes, weights: Values, corners: Values, best: Values, most: float
) -> PolyCollection:
    """Draw the patches of a slide, those that are listed with red outlines."""
    from matplotlib.collections import PolyCollection

    side = patch_side(corners)
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side
    drawn = PolyCollection(
        list(corners[:, None] + square),
        array=weights,
        cmap="viridis",
        edgecolors=GREY,
        linewidths=0.2,
    )
    drawn.set_clim(0, most)
    axes.add_collection(drawn)
    outlines = list(best[:, None] + square)
    axes.add_collection(PolyCollection(outlines, facecolors="none", edgecolors=RED, linewidths=1.5))
    axes.set_xlim(corners[:, 0].min() - side, corners[:, 0].max() + 2 * side)
    axes.set_ylim(corners[:, 1].max() + 2 * side, corners[:, 1].min() - side)  # y points down
    axes.set_aspect("equal")
    axes.set_xlabel("x, pixels of level 0", fontsize=8)
    axes.set_ylabel("y", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.ticklabel_format(style="plain", useOffset=False)
    for label in axes.get_xticklabels():
        label.set_rotation(30)
    return drawn


def patch_side(corners: Values) -> float:
    """Return the side of the patches: the median distance to the nearest other corner (A452).

    The distance is the larger of those along x and y; 1 where there is no other corner.

    >>> patch_side(np.array([[0, 0], [256, 0], [0, 256], [2560, 0]]))
    256.0
    """
    from scipy.spatial import cKDTree

    places = np.unique(np.asarray(corners, np.float64), axis=0)
    if len(places) < 2:
        return 1.0
    distances, _ = cKDTree(places).query(places, k=2, p=np.inf)
    return float(np.median(distances[:, 1]))


def _list(
    axes: Axes,
    weights: Values,
    corners: Values,
    top: Values,
    witness: Values | None,
    slides: Sequence[tuple[str, slice]],
) -> None:
    """Write number, slide, place and attention of the patches with the most attention."""
    axes.axis("off")
    several = len(slides) > 1
    header = ["", *["slide"] * several, "patch", "x", "y", "attention"]
    header += ["witness"] * (witness is not None)
    ends = [rows.stop for _, rows in slides]
    rows = [
        [
            str(rank),
            *[str(1 + int(np.searchsorted(ends, i, side="right")))] * several,
            str(i),
            *("" if np.isnan(place) else f"{place:.0f}" for place in corners[i]),
            f"{weights[i]:.3g}",
            *(["yes" if witness[i] else ""] if witness is not None else []),
        ]
        for rank, i in enumerate(top.tolist(), start=1)
    ]
    table = axes.table([header, *rows], loc="upper center", cellLoc="right", edges="open")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.auto_set_column_width(list(range(len(header))))
