"""Attention over the patches of a slide, drawn at their places.

Figures are created without pyplot; matplotlib and scipy are imported when a figure is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evaluation.report.plots import GREY, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.5, 5.2  # inches
TOP = 12  # patches that are listed
RED = "#d62728"


def plot_attention_map(
    attention: Values, coords: Values, instance_labels: Values | None = None, title: str = ""
) -> Figure:
    """Plot the attention of one slide at its patches' places and list the patches with the most.

    Every patch is a square with an outline, from its top left corner; the side is `patch_side`. The
    colours begin at 0, so that even attention looks even. Listed patches have red outlines, and the
    list says which are witnesses.

    Args:
        attention: (n,) weights that sum to 1.
        coords: (n, 2) x and y of the top left corners, in pixels of level 0.
        instance_labels: (n,) with values above 0 for witnesses and below 0 for unknown, or None.
        title: title of the figure.

    Raises:
        ValueError: no patches, or lengths that differ.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

    weights, corners = np.asarray(attention, np.float64), np.asarray(coords, np.float64)
    if weights.ndim != 1 or not weights.size or corners.shape != (weights.size, 2):
        raise ValueError(
            f"a map needs attention (n,) with n >= 1 and coords (n, 2), got {weights.shape} and "
            f"{corners.shape}"
        )
    witness = None if instance_labels is None else np.asarray(instance_labels) > 0
    side, order = patch_side(corners), np.argsort(-weights, kind="stable")
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes, listed = figure.subplots(1, 2, width_ratios=[3.0, 2.0])
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side
    drawn = PolyCollection(
        list(corners[:, None] + square),
        array=weights,
        cmap="viridis",
        edgecolors=GREY,
        linewidths=0.2,
    )
    drawn.set_clim(0, weights.max())
    axes.add_collection(drawn)
    best = list(corners[order[:TOP], None] + square)
    axes.add_collection(PolyCollection(best, facecolors="none", edgecolors=RED, linewidths=1.5))
    axes.set_xlim(corners[:, 0].min() - side, corners[:, 0].max() + 2 * side)
    axes.set_ylim(corners[:, 1].max() + 2 * side, corners[:, 1].min() - side)  # y points down
    axes.set_aspect("equal")
    axes.set_xlabel("x, pixels of level 0", fontsize=8)
    axes.set_ylabel("y", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.ticklabel_format(style="plain", useOffset=False)
    for label in axes.get_xticklabels():
        label.set_rotation(30)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.7, location="left")
    bar.set_label(f"attention (uniform: {1 / weights.size:.2g})", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _list(listed, weights, corners, order[:TOP], witness)
    figure.suptitle(f"{title} · {weights.size} patch{'es' * (weights.size > 1)}", fontsize=11)
    return figure


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
    axes: Axes, weights: Values, corners: Values, top: Values, witness: Values | None
) -> None:
    """Write number, place and attention of the patches with the most attention."""
    axes.axis("off")
    header = ["", "patch", "x", "y", "attention", *(["witness"] if witness is not None else [])]
    rows = [
        [
            str(rank),
            str(i),
            f"{corners[i, 0]:.0f}",
            f"{corners[i, 1]:.0f}",
            f"{weights[i]:.3g}",
            *(["yes" if witness[i] else ""] if witness is not None else []),
        ]
        for rank, i in enumerate(top.tolist(), start=1)
    ]
    table = axes.table([header, *rows], loc="upper center", cellLoc="right", edges="open")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.auto_set_column_width(list(range(len(header))))
