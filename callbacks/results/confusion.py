"""Confusion matrix as an image and as a W&B chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl

from callbacks.after_evaluation import AfterEvaluation, split_of, title_of
from evaluation.mil.scores import confusion_matrix
from evaluation.report.plots import plot_confusion
from evaluation.seg.coco_backends import IouType
from evaluation.seg.confusion import detection_confusion
from loggers.run_files import rasterise, run_folder, write_png
from loggers.wandb_charts import confusion_chart
from structures.tasks import has_classes

Counts = npt.NDArray[np.int64]


class ConfusionFigure(AfterEvaluation):
    """Draw the confusion matrix of the latest validation and of the test.

    For images: the classes and the background, with detections matched to ground-truth instances
    regardless of class (`evaluation.seg.confusion`; module attribute ``results``, ground truth of
    the datamodule). For bags: true against predicted class (``bag_scores``, ``threshold``), except
    in multilabel tasks. Writes ``pictures/confusion_val.png`` and ``confusion_test.png``, and logs
    ``val/confusion`` to W&B.

    Args:
        every_n_epochs: epochs between figures (see `AfterEvaluation`).
        score: detections with a lower score are left out.
        iou: smallest IoU of a matched detection.
        max_classes: number of classes drawn, with the most instances or bags; all others are
            merged into ``other``.

    Raises:
        ValueError: an argument is out of range.
    """

    entry = "confusion"
    order = 90

    def __init__(
        self,
        every_n_epochs: int = 10,
        score: float = 0.5,
        iou: float = 0.5,
        max_classes: int = 30,
    ) -> None:
        super().__init__(every_n_epochs)
        if not 0 <= score <= 1 or not 0 < iou <= 1 or max_classes < 1:
            raise ValueError(
                "a confusion matrix needs score in [0, 1], iou in (0, 1] and max_classes >= 1, got "
                f"{score}, {iou}, {max_classes}"
            )
        self.score = score
        self.iou = iou
        self.max_classes = max_classes

    def draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draw, write and log the matrix."""
        folder = run_folder(trainer, "pictures")
        if not trainer.is_global_zero:
            return
        split, title = split_of(stage), title_of(stage)
        counted = self._count(trainer, pl_module, split)
        if counted is None:
            return
        matrix, names = frequent_classes(*counted, self.max_classes)
        if names[-1] == "background":
            title += f"\nscore ≥ {self.score:g}, IoU ≥ {self.iou:g}"
        if folder is not None:
            figure = plot_confusion(matrix, names, title)
            write_png(folder / f"confusion_{split}.png", rasterise(figure))
        self.wandb.send(
            trainer, f"{split}/confusion", lambda: confusion_chart(matrix, names, title)
        )

    def _count(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str
    ) -> tuple[Counts, Sequence[str]] | None:
        module: Any = pl_module
        bags, scores = getattr(module, "bag_scores", None), getattr(module, "scores", None)
        if bags is not None and not has_classes(module.task):
            return None
        if bags is not None and module.task != "multilabel" and bags.known.any():
            matrix = confusion_matrix(
                bags.labels[bags.known],
                bags.probabilities[bags.known],
                "multiclass" if module.task == "ordinal" else module.task,
                module.threshold,
            )
            return matrix, module.class_names or [str(c) for c in range(len(matrix))]
        data: Any = getattr(trainer, "datamodule", None)
        if scores is None or not hasattr(data, "ground_truth"):
            return None
        kind: IouType = "segm" if "segm" in scores.curves else "bbox"
        return detection_confusion(
            data.labelled_truth(split), module.results, self.score, self.iou, kind
        )


def frequent_classes(matrix: Counts, names: Sequence[str], limit: int) -> tuple[Counts, list[str]]:
    """Merge all classes except the ``limit`` most frequent true classes into ``other``.

    Args:
        matrix: (C, C) counts, with the true class in rows.
        names: C names; if the last is ``background``, it is not merged and stays last.
        limit: number of classes kept, in their order.

    Returns:
        The smaller matrix, with the same sum, and its names.
    """
    classes = len(names) - (names[-1] == "background")
    if classes <= limit:
        return matrix, list(names)
    members = matrix[:classes].sum(axis=1)
    kept = np.sort(np.argsort(-members, kind="stable")[:limit])
    place = np.full(len(names), limit)
    place[kept] = np.arange(limit)
    place[classes:] = limit + 1
    size = int(place.max()) + 1
    joined = np.zeros((size, size), dtype=np.int64)
    np.add.at(joined, (place[:, None], place[None]), matrix)
    return joined, [*(names[k] for k in kept), "other", *names[classes:]]
