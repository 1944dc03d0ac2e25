"""Figures of metrics: precision-recall and ROC curves, confusion matrices, attention over a bag.

Figures are created without pyplot, so that they share no state and need no display; matplotlib is
imported when a figure is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evaluation.seg.coco_scores import KIND, CocoScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from evaluation.seg.operating_point import OperatingPoint

Values = npt.NDArray[Any]

ATTENTION_WIDTH = 7.5  # inches of the widest figure of a bag
BLUE, ORANGE, GREY = "#2f6db5", "#e07b1a", "#9aa3ad"


def save_figure(figure: Figure, path: str | Path, dpi: int = 130) -> Path:
    """Write a figure in the format of the path's suffix; missing folders are created."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return path


def plot_coco_pr(scores: CocoScores) -> Figure:
    """Plot precision against recall at IoU .50, .75 and on average over .50:.95.

    There is one panel per evaluated IoU type. Curves are means over classes; the legend shows their
    AP.
    """
    figure = _figure(4.6 * len(scores.curves), 4.2)
    panels = figure.subplots(1, len(scores.curves), squeeze=False)[0]
    for axes, iou_type in zip(panels, scores.curves, strict=True):
        for name, iou, colour in (
            ("IoU .50", 0.5, BLUE),
            ("IoU .75", 0.75, ORANGE),
            ("mean .50:.95", None, "black"),
        ):
            recall, precision = scores.pr_curve(iou_type, iou)
            label = f"{name}   AP {precision.mean():.3f}"
            axes.plot(recall, precision, color=colour, label=label)
        _square(axes, "recall", "precision", f"{KIND[iou_type]} · {scores.num_images} images")
        axes.legend(loc="best", fontsize=9)
    return figure


def plot_pr_roc(
    curves: Mapping[str, tuple[Values, Values]], threshold: float | None = None, title: str = ""
) -> Figure:
    """Plot ROC and precision-recall curves of bag scores side by side.

    Args:
        curves: 0/1 labels (B,) and probabilities (B,) by name of the model or class.
        threshold: decision threshold to mark on every curve, or None.
        title: title of the figure.

    Raises:
        ValueError: a curve has labels of one class only, for which neither curve exists.
    """
    figure = _figure(9.2, 4.4)
    roc, pr = figure.subplots(1, 2)
    roc.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    for number, (name, pair) in enumerate(curves.items()):
        labels, scores = np.asarray(pair[0]).astype(int), np.asarray(pair[1], dtype=np.float64)
        if set(labels.tolist()) != {0, 1}:
            raise ValueError(f"curve {name!r} needs labels 0 and 1, got {np.unique(labels)}")
        _plot_roc(roc, name, labels, scores, f"C{number}")
        _plot_pr(pr, name, labels, scores, f"C{number}")
        if threshold is not None:
            _mark(roc, pr, labels, scores >= threshold, f"C{number}")
    _square(roc, "false positive rate", "true positive rate", "ROC")
    _square(pr, "recall", "precision", "precision and recall")
    for axes in (roc, pr):
        axes.legend(loc="best", fontsize=9)
    note = "" if threshold is None else f"dots: threshold {threshold:.3g}"
    figure.suptitle("   ".join(part for part in (title, note) if part))
    return figure


def plot_operating_points(points: Mapping[str, OperatingPoint]) -> Figure:
    """Plot precision, recall and F1 against the confidence, and precision against recall.

    Values are means over the classes with a value. A dotted line or a dot marks the confidence of
    each point; the legend shows the best F1 and its confidence, tuned on the same data.

    Args:
        points: operating points by name of the model, at least one.
    """
    figure = _figure(8.6, 9.0 + 0.22 * len(points))
    panels = figure.subplots(2, 2)
    rates = ("precision", "recall", "f1")
    for number, (name, point) in enumerate(points.items()):
        curves, colour = point.mean_curves(), f"C{number}"
        values, best = point.metrics(), point.tuned()
        for axes, rate in zip(panels.flat, rates, strict=False):
            axes.plot(point.confidences, curves[f"mean_{rate}"], color=colour)
        tuned = f"tuned on these images {best.f1:.3f} at {best.score:.2f}"
        label = f"{name}   F1 {values['mean_f1']:.3f}, {tuned}"
        pr = panels[1, 1]
        pr.plot(curves["mean_recall"], curves["mean_precision"], color=colour, label=label)
        pr.plot(
            [values["mean_recall"]], [values["mean_precision"]],
            marker="o", color=colour, markeredgecolor="black", zorder=5,
        )  # fmt: skip
    shown = next(iter(points.values()))
    for axes, title in zip(panels.flat, ("precision", "recall", "F1"), strict=False):
        axes.axvline(shown.score, color=GREY, linestyle=":", linewidth=1)
        _square(axes, "confidence", title, title)
    _square(panels[1, 1], "recall", "precision", "precision and recall")
    figure.legend(loc="outside lower center", fontsize=9)
    kind = f"{KIND[shown.iou_type]} IoU {shown.iou:g}"
    images = f"{len(shown.image_ids)} images"
    figure.suptitle(f"means over classes · {kind} · {images} · marked: confidence {shown.score:g}")
    return figure


def plot_confusion(matrix: Values, class_names: Sequence[str], title: str = "") -> Figure:
    """Plot a confusion matrix with counts as text and the share of each true class as colour.

    Args:
        matrix: (C, C) counts, rows by true class, columns by predicted class.
        class_names: C names.
        title: title of the figure.

    Raises:
        ValueError: the size of the matrix does not match the names.
    """
    counts, classes = np.asarray(matrix), len(class_names)
    if counts.shape != (classes, classes):
        raise ValueError(f"{classes} class names but a matrix of shape {counts.shape}")
    side = max(3.2, 0.55 * classes + 1.8)
    figure = _figure(side + 0.6, side)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(classes):
        for column in range(classes):
            ink = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, f"{counts[row, column]:g}", ha="center", va="center", color=ink)
    names = list(class_names)
    axes.set_xticks(range(classes), names, rotation=45 if classes > 4 else 0)
    axes.set_yticks(range(classes), names)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    figure.colorbar(drawn, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def plot_attention(
    attention: Values,
    images: Values | None = None,
    instance_labels: Values | None = None,
    title: str = "",
    *,
    ordered: bool = True,
    limit: int = 24,
) -> Figure:
    """Plot the attention over the instances of one bag and mark witnesses.

    Args:
        attention: (n,) weights that sum to 1.
        images: (n, h, w) grey or (n, h, w, 3) colour images of the instances, or None.
        instance_labels: (n,) with values above 0 for witnesses and below 0 for unknown, or None.
        title: title of the figure.
        ordered: sort by attention in descending order; else keep the order of the bag.
        limit: largest number of instances shown; the title says if some are left out.

    Raises:
        ValueError: no instances, or lengths that differ.
    """
    weights = np.asarray(attention, dtype=np.float64)
    total = weights.size
    if weights.ndim != 1 or total == 0:
        raise ValueError(f"attention must be (n,) with n >= 1, got shape {weights.shape}")
    for name, value in (("images", images), ("instance_labels", instance_labels)):
        if value is not None and len(value) != total:
            raise ValueError(f"{total} attention weights but {len(value)} {name}")
    shown = np.argsort(-weights, kind="stable")[:limit]
    shown = shown if ordered else np.sort(shown)
    witness = None if instance_labels is None else np.asarray(instance_labels) > 0
    width = min(max(3.6, 0.56 * shown.size + 1.2), ATTENTION_WIDTH)
    figure = _figure(width, 2.4 if images is None else 3.2)
    ratios = [1.0] if images is None else [3.0, 1.0]
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)
    _attention_bars(panels[0, 0], weights, shown, witness)
    if images is not None:
        _thumbnails(panels[1, 0], np.asarray(images), shown, witness)
    last = panels[-1, 0]
    last.set_xlim(-0.6, shown.size - 0.4)
    crowded = shown.size > 12 and shown.max() > 99
    turned = 90 if crowded else 0
    last.set_xticks(range(shown.size), [str(i) for i in shown], fontsize=8, rotation=turned)
    last.set_xlabel("instance", fontsize=9)
    left_out = f" · {shown.size} of {total} shown" if shown.size < total else ""
    figure.suptitle(f"{title}{left_out}", fontsize=11)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _square(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set(xlabel=x, ylabel=y, title=title, xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    axes.set_box_aspect(1)
    axes.grid(alpha=0.25)


def _plot_roc(axes: Axes, name: str, labels: Values, scores: Values, colour: str) -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    false, true, _ = roc_curve(labels, scores)
    text = f"{name}   AUROC {roc_auc_score(labels, scores):.3f}"
    axes.plot(false, true, color=colour, label=text)


def _plot_pr(axes: Axes, name: str, labels: Values, scores: Values, colour: str) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)
    text = f"{name}   AUPRC {average_precision_score(labels, scores):.3f}"
    axes.plot(recall, precision, color=colour, label=text, drawstyle="steps-post")
    axes.axhline(labels.mean(), color=colour, linestyle=":", linewidth=1)


def _mark(roc: Axes, pr: Axes, labels: Values, positive: Values, colour: str) -> None:
    """Mark the point of a threshold on both curves."""
    true, false = int(positive[labels == 1].sum()), int(positive[labels == 0].sum())
    recall = true / (labels == 1).sum()
    style: dict[str, Any] = {
        "marker": "o",
        "color": colour,
        "markeredgecolor": "black",
        "zorder": 5,
    }
    roc.plot([false / (labels == 0).sum()], [recall], **style)
    if true + false:  # precision is undefined without positive predictions
        pr.plot([recall], [true / (true + false)], **style)


def _attention_bars(axes: Axes, weights: Values, shown: Values, witness: Values | None) -> None:
    marked = np.zeros(weights.shape, dtype=bool) if witness is None else witness
    positions = np.arange(shown.size)
    for name, chosen, colour in (
        ("witness", marked[shown], ORANGE),
        ("other", ~marked[shown], BLUE),
    ):
        if not chosen.any():  # an empty bar would have a wrong colour in the legend
            continue
        label = None if witness is None else name
        axes.bar(positions[chosen], weights[shown[chosen]], color=colour, width=0.84, label=label)
    axes.axhline(1 / weights.size, color=GREY, linestyle="--", linewidth=1, label="uniform")
    axes.set_ylabel("attention")
    axes.set_ylim(0, 1.3 * max(weights.max(), 1 / weights.size))  # room for the legend
    axes.legend(fontsize=8, frameon=False, loc="upper right", ncols=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _thumbnails(axes: Axes, images: Values, shown: Values, witness: Values | None) -> None:
    from matplotlib.patches import Rectangle

    low, high = float(images.min()), float(images.max())
    for position, i in enumerate(shown):
        extent = (position - 0.42, position + 0.42, 0.0, 1.0)
        axes.imshow(images[i], cmap="gray", extent=extent, aspect="auto", vmin=low, vmax=high)
        if witness is not None and witness[i]:
            corner = (position - 0.42, 0.0)
            axes.add_patch(Rectangle(corner, 0.84, 1.0, fill=False, edgecolor=ORANGE, linewidth=3))
    axes.set(ylim=(-0.04, 1.04), yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
