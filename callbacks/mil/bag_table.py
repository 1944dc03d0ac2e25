"""W&B table of the validation bags with their scores and most attended instances."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl

from callbacks.after_evaluation import AfterEvaluation, split_of
from callbacks.mil.bag_outputs import bag_attention
from callbacks.mil.instance_columns import InstanceColumns, TopInstances, top_instances, worst_first
from callbacks.mil.slide_parts import slide_source
from callbacks.mil.target_rows import target_rows
from evaluation.mil.collector import BagScores
from loggers.wandb_charts import table
from loggers.wandb_media import has_wandb
from structures import BagBatch, MILTask, TargetCoding
from structures.processes import gather_to_first
from structures.tasks import has_classes


class BagTable(AfterEvaluation):
    """Log the table ``val/bags`` to W&B: one row per bag, the worst predictions first.

    Columns: bag, patient (if known), ``error`` (one minus the probability of the true class or
    grade; the largest error for several labels), truth, decision, probability of each class or
    grade, number of instances, then the index, attention and position of each of the most attended
    instances. Of times and values, `target_rows` says what stands in place of the classes.
    Attention with several branches is averaged. Without W&B nothing is kept; the files of
    `PredictionWriter` contain the same numbers.

    Args:
        every_n_epochs: epochs between tables (see `AfterEvaluation`).
        top: number of instances per bag.
        max_bags: largest number of rows.

    Raises:
        ValueError: an argument is out of range.
    """

    entry = "bag_table"
    order = 110

    def __init__(self, every_n_epochs: int = 10, top: int = 3, max_bags: int = 1000) -> None:
        super().__init__(every_n_epochs)
        if top < 0 or max_bags < 1:
            raise ValueError(f"need top >= 0 and max_bags >= 1, got {top} and {max_bags}")
        self.top = top
        self.max_bags = max_bags
        self.start()

    def start(self) -> None:
        """Discard the bags of an earlier epoch."""
        self._bags: dict[int, TopInstances] = {}

    def keep(self, pl_module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        """Keep the most attended instances of each bag."""
        if not isinstance(batch, BagBatch) or not has_wandb(pl_module.trainer):
            return
        if outputs.attention is None:
            nothing = np.zeros(0, dtype=np.int64), np.zeros(0)
            for index, size in zip(batch.index.tolist(), batch.sizes().tolist(), strict=True):
                self._bags[index] = TopInstances(size, *nothing, None)
            return
        source = slide_source(self.data, self.split)
        for one in bag_attention(batch, outputs.attention, source):
            self._bags[one.index] = top_instances(one, self.top)

    def draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Log the table."""
        module: Any = pl_module
        task: MILTask | None = getattr(module, "task", None)  # none of images
        if not has_wandb(trainer) or task is None:
            return
        states = gather_to_first(self._bags)
        scores: BagScores | None = getattr(module, "bag_scores", None)
        if not trainer.is_global_zero or scores is None or not scores.bag_ids:
            return
        kept = {index: one for state in states for index, one in state.items()}
        if has_classes(task):
            columns, rows = bag_rows(scores, kept, module.class_names, module.threshold, self.top)
        else:
            instances = InstanceColumns(kept, _names(scores), self.top)
            coding: TargetCoding | None = module.target_coding
            unit = () if coding is None else coding.deviation
            found = module.target_predictions(scores)
            columns, rows = target_rows(found, scores.index.tolist(), instances, unit)
        key = f"{split_of(stage)}/bags"
        self.wandb.send(trainer, key, lambda: table(columns, rows[: self.max_bags]))


def _names(scores: BagScores) -> dict[int, str]:
    return dict(zip(scores.index.tolist(), scores.bag_ids, strict=True))


def bag_rows(
    scores: BagScores,
    kept: dict[int, TopInstances],
    class_names: tuple[str, ...],
    threshold: float,
    top: int,
) -> tuple[list[str], list[list[Any]]]:
    """Return column names and one row per bag, the largest error first, unknown labels last.

    Args:
        scores: scores of all bags.
        kept: most attended instances by bag number.
        class_names: name of each class, indexed by label; numbers are used if empty.
        threshold: probability from which a binary or multilabel class counts as present.
        top: number of instances per row.
    """
    binary = scores.probabilities.ndim == 1
    classes = 2 if binary else scores.probabilities.shape[1]
    names = list(class_names) if len(class_names) == classes else [str(c) for c in range(classes)]
    shown = range(1, 2) if binary else range(classes)
    instances = InstanceColumns(kept, _names(scores), top)
    columns = ["bag", *(["patient"] if scores.groups else []), "error", "truth", "decision"]
    columns += [f"p({names[c]})" for c in shown] + instances.names
    rows = []
    for b, index in enumerate(scores.index.tolist()):
        p = scores.probabilities[b]
        p = np.array([1 - p, p]) if binary else p
        wanted, found, error = _verdict(scores.labels[b], p, binary, threshold)
        row: list[Any] = [scores.bag_ids[b], *(scores.groups[b : b + 1]), error]
        row += [", ".join(names[c] for c in part) for part in (wanted, found)]
        row += [float(p[c]) for c in shown]
        rows.append(row + instances.cells(index))
    return columns, worst_first(columns, rows)


def _verdict(
    label: Any, p: npt.NDArray[np.float64], binary: bool, threshold: float
) -> tuple[list[int], list[int], float]:
    """Return the true classes, the predicted classes and the error of a bag."""
    if np.ndim(label) == 1:
        error = float(np.abs(label - p).max()) if (label >= 0).all() else float("nan")
        return np.flatnonzero(label == 1).tolist(), np.flatnonzero(p >= threshold).tolist(), error
    decided = int(p[1] >= threshold) if binary else int(p.argmax())
    if label < 0:
        return [], [decided], float("nan")
    return [int(label)], [decided], 1 - float(p[label])
