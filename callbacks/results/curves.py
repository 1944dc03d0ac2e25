"""Precision-recall and ROC curves of the latest validation and of the test."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl

from callbacks.after_evaluation import AfterEvaluation, split_of, title_of
from evaluation.mil.collector import BagScores
from evaluation.mil.scores import pr_curve, roc_curve
from evaluation.report.plots import plot_coco_pr, plot_pr_roc
from evaluation.seg.coco_backends import IouType
from evaluation.seg.coco_scores import KIND, CocoScores
from loggers.run_files import rasterise, run_folder, write_png
from loggers.wandb_charts import Points, line_chart
from loggers.wandb_media import Media
from structures.tasks import has_classes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Curves(AfterEvaluation):
    """Draw the precision-recall and ROC curves underlying the main metrics.

    For images: precision against recall of boxes and masks (module attribute ``scores``). For bags:
    precision-recall and ROC curves with the threshold marked (``bag_scores``, ``threshold``,
    ``class_names``); with several classes, each class is drawn against the rest. Writes
    ``pictures/curves_val.png`` of the latest validation and ``curves_test.png``. W&B keeps an image
    per drawn epoch and has the native charts ``val/pr``, for images with one curve per class at
    IoU .50, and ``val/roc`` for bags. Nothing is drawn if all bags have the same class.

    Args:
        every_n_epochs: epochs between figures (see `AfterEvaluation`).
    """

    entry = "curves"
    order = 80

    def __init__(self, every_n_epochs: int = 10) -> None:
        super().__init__(every_n_epochs)

    def draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draw, write and log the figure."""
        folder = run_folder(trainer, "pictures")
        if not trainer.is_global_zero:
            return
        split, when = split_of(stage), title_of(stage)
        figure = _figure(pl_module, when)
        if figure is None:
            return
        image = rasterise(figure)
        if folder is not None:
            write_png(folder / f"curves_{split}.png", image)
        self.wandb.log(trainer, f"{split}/curves", [Media(image, when)])
        for kind, (points, title, xname) in _charts(pl_module).items():
            chart = functools.partial(line_chart, points, f"{title}, {when}", xname)
            self.wandb.send(trainer, f"{split}/{kind}", chart)


def _charts(pl_module: pl.LightningModule) -> dict[str, tuple[dict[str, Points], str, str]]:
    """Return the points by name, the title and the horizontal axis of each chart."""
    module: Any = pl_module
    scores = getattr(module, "scores", None)
    if scores is not None:
        kind: IouType = "segm" if "segm" in scores.curves else "bbox"
        title = f"precision by recall, {KIND[kind]} IoU .50"
        return {"pr": (class_curves(scores, kind), title, "recall")}
    pairs = one_against_rest(module.bag_scores, module.class_names)
    pr = {name: pr_curve(*pair)[:2] for name, pair in pairs.items()}
    roc = {name: roc_curve(*pair)[:2] for name, pair in pairs.items()}
    return {
        "pr": (pr, "precision by recall", "recall"),
        "roc": (roc, "true by false positive rate", "false positive rate"),
    }


def class_curves(scores: CocoScores, iou_type: IouType) -> dict[str, Points]:
    """Return the precision-recall curve at IoU .50 of all classes together and of each.

    The classes with the most instances come first; classes without instances are left out.
    """
    precision = scores.curves[iou_type].precision[0]  # IoU .50: (R, K)
    order = np.argsort(-scores.truth_counts, kind="stable")
    with_truth = [int(k) for k in order if scores.truth_counts[k] > 0]
    recall = np.linspace(0, 1, len(precision))
    curves = {"all classes": scores.pr_curve(iou_type)} if with_truth else {}
    return curves | {scores.categories[k][1]: (recall, precision[:, k]) for k in with_truth}


def _figure(pl_module: pl.LightningModule, title: str) -> Figure | None:
    scores = getattr(pl_module, "scores", None)
    if scores is not None:
        return plot_coco_pr(scores)
    bags = getattr(pl_module, "bag_scores", None)
    if bags is None:
        return None
    module: Any = pl_module
    if not has_classes(module.task):
        return None
    curves = one_against_rest(bags, module.class_names)
    if not curves:
        return None
    binary = bags.probabilities.ndim == 1
    return plot_pr_roc(curves, module.threshold if binary else None, title)


def one_against_rest(
    bags: BagScores, class_names: Sequence[str]
) -> dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return 0/1 labels and probabilities by class name, for classes with both kinds of bags.

    A binary task has the single curve ``bags``.
    """
    known = bags.labels.reshape(len(bags.bag_ids), -1).min(axis=1) >= 0
    labels, probabilities = bags.labels[known], bags.probabilities[known]
    if probabilities.ndim == 1:
        pairs = {"bags": (labels, probabilities)}
    else:
        count = probabilities.shape[1]
        names = class_names or [str(c) for c in range(count)]
        truth = labels if labels.ndim == 2 else labels[:, None] == np.arange(count)
        pairs = {names[c]: (truth[:, c].astype(int), probabilities[:, c]) for c in range(count)}
    return {name: pair for name, pair in pairs.items() if set(pair[0].tolist()) == {0, 1}}
