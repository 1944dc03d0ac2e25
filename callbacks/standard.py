"""The callbacks that every run has, each switched off or set up by one line of configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor

from callbacks.mil.attention import AttentionFigure
from callbacks.mil.bag_table import BagTable
from callbacks.results.class_table import ClassTable
from callbacks.results.confusion import ConfusionFigure
from callbacks.results.curves import Curves
from callbacks.results.predictions import PredictionWriter
from callbacks.run.gradient_norm import GradientNorm
from callbacks.run.peak_memory import PeakMemory
from callbacks.run.progress import ProgressBar
from callbacks.run.throughput import Throughput
from callbacks.seg.gallery import MaskGallery


@dataclass(frozen=True)
class StandardCallbacks:
    """The ``callbacks`` section of a configuration.

    Each entry is ``true``, ``false`` or the arguments of its class, which are checked by name and
    type: ``callbacks: {gallery: {every_n_epochs: 5}, curves: false}``, or on the command line
    ``--callbacks.gallery.every_n_epochs 5 --callbacks.curves false``. Overlays win entry by entry.
    Callbacks of other classes go into ``trainer.callbacks``; one of the same class as an entry
    takes its place.

    Attributes:
        progress: progress bar, or lines in a log file.
        learning_rate: ``lr-*`` at every logged step.
        throughput: ``time/*``, pictures, bags and instances a second.
        memory: ``memory/*``, peaks of host and GPU.
        gradient_norm: ``grad_norm/*`` before clipping.
        gallery: truth beside prediction for a few pictures.
        attention: attention over the instances of a few bags.
        curves: precision-recall and ROC curves.
        confusion: confusion matrix, for pictures with the background.
        class_table: ``per_class.csv``, scores by class.
        bag_table: every validation bag with its most attended instances, in W&B.
        predictions: files of what `test` and `predict` find.
    """

    progress: bool | ProgressBar = True
    learning_rate: bool | LearningRateMonitor = True
    throughput: bool | Throughput = True
    memory: bool | PeakMemory = True
    gradient_norm: bool | GradientNorm = True
    gallery: bool | MaskGallery = True
    attention: bool | AttentionFigure = True
    curves: bool | Curves = True
    confusion: bool | ConfusionFigure = True
    class_table: bool | ClassTable = True
    bag_table: bool | BagTable = True
    predictions: bool | PredictionWriter = True

    def build(
        self, own: Sequence[pl.Callback] = (), progress_bar: bool | None = None
    ) -> list[pl.Callback]:
        """Return the callbacks of a run in the order of the entries, ``own`` at the end.

        Args:
            own: those of ``trainer.callbacks``.
            progress_bar: ``trainer.enable_progress_bar``; False removes every progress bar.
        """
        chosen = [_callback(entry.name, getattr(self, entry.name)) for entry in fields(self)]
        taken = {type(callback) for callback in own}
        standard = [c for c in chosen if c is not None and type(c) not in taken]
        if progress_bar is False or any(map(_is_bar, own)):
            standard = [c for c in standard if not _is_bar(c)]
        if progress_bar is False:
            own = [c for c in own if not _is_bar(c)]
        return [*standard, *own]


# What ``true`` stands for.
_DEFAULTS: dict[str, Callable[[], pl.Callback]] = {
    "progress": ProgressBar,
    "learning_rate": lambda: LearningRateMonitor(logging_interval="step"),
    "throughput": Throughput,
    "memory": PeakMemory,
    "gradient_norm": GradientNorm,
    "gallery": MaskGallery,
    "attention": AttentionFigure,
    "curves": Curves,
    "confusion": ConfusionFigure,
    "class_table": ClassTable,
    "bag_table": BagTable,
    "predictions": PredictionWriter,
}


def _is_bar(callback: pl.Callback) -> bool:
    return isinstance(callback, pl.callbacks.ProgressBar)


def _callback(name: str, entry: bool | pl.Callback) -> pl.Callback | None:
    if isinstance(entry, bool):
        return _DEFAULTS[name]() if entry else None
    return entry
