"""Logging of images to Weights & Biases; failures never stop a run.

Lightning creates the W&B run on the first use of ``logger.experiment`` and returns a dummy on all
other processes, where the functions here therefore do nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from structures import Instances, rle

_log = logging.getLogger(__name__)

LabelMap = npt.NDArray[np.uint8]
MAX_MASK_ID = 255  # W&B stores masks as bytes


@dataclass(frozen=True, slots=True)
class Media:
    """An image to be logged to W&B.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        caption: caption of the image.
        masks: the ``masks`` argument of `wandb.Image`, may be empty.
        boxes: the ``boxes`` argument of `wandb.Image`, may be empty.
    """

    image: npt.NDArray[np.uint8]
    caption: str
    masks: Mapping[str, Any] = field(default_factory=dict)
    boxes: Mapping[str, Any] = field(default_factory=dict)

    def as_image(self) -> Any:
        """Return the `wandb.Image` for a table cell, which needs the classes as an argument."""
        import wandb

        named = {k: v for mask in self.masks.values() for k, v in mask["class_labels"].items()}
        classes = [{"id": k, "name": v} for k, v in sorted(named.items())]
        return wandb.Image(
            Image.fromarray(self.image),
            caption=self.caption,
            masks=dict(self.masks) or None,
            boxes=dict(self.boxes) or None,
            classes=classes or None,
        )


class WandbMedia:
    """Logs images if W&B is enabled; a failure is reported once and otherwise ignored."""

    def __init__(self) -> None:
        self._warned = False

    def enabled(self, trainer: pl.Trainer) -> bool:
        """Return whether this process sends images: the first one, if it has a W&B logger."""
        return trainer.is_global_zero and bool(_wandb_loggers(trainer))

    def log(self, trainer: pl.Trainer, key: str, media: Sequence[Media]) -> None:
        """Log ``media`` as a list of `wandb.Image` under ``key`` at the current optimizer step.

        Errors of W&B, the file system and the network become a single warning; errors in the given
        data are raised.
        """
        if not media:
            return
        given: dict[str, list[Any]] = {
            "images": [Image.fromarray(m.image) for m in media],
            "caption": [m.caption for m in media],
            "masks": [dict(m.masks) or None for m in media],
            "boxes": [dict(m.boxes) or None for m in media],
        }
        step = trainer.global_step
        self._each(trainer, lambda logger: logger.log_image(key=key, step=step, **given))

    def send(self, trainer: pl.Trainer, key: str, make: Callable[[], Any]) -> None:
        """Log a native W&B object (see `loggers.wandb_charts`) under ``key``.

        Args:
            trainer: the trainer, which defines the optimizer step.
            key: name of the object.
            make: function that builds the object; it is called only if the object is sent. Errors
                are handled as in `log`.
        """
        step = trainer.global_step
        self._each(trainer, lambda logger: logger.log_metrics({key: make()}, step=step))

    def _each(self, trainer: pl.Trainer, work: Callable[[WandbLogger], None]) -> None:
        if not trainer.is_global_zero:
            return
        for logger in _wandb_loggers(trainer):
            try:
                work(logger)
            except Exception as error:
                if not _is_outside_our_control(error):
                    raise
                if not self._warned:
                    self._warned = True
                    _log.warning(
                        "W&B did not accept images or tables (%s: %s); the run continues, and "
                        "the files in its folder are complete",
                        type(error).__name__,
                        error,
                    )


def has_wandb(trainer: pl.Trainer) -> bool:
    """Return whether the run has a W&B logger; equal on all processes, also after a failure."""
    return any(isinstance(logger, WandbLogger) for logger in trainer.loggers)


def _wandb_loggers(trainer: pl.Trainer) -> list[WandbLogger]:
    """Return the W&B loggers that have not failed, see `loggers.wandb_logger`."""
    found = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    return [logger for logger in found if not getattr(logger, "failed", False)]


def _is_outside_our_control(error: Exception) -> bool:
    """Return whether an error comes from W&B, the disk or the network, not from this file.

    Half of W&B's errors (closed mailbox, lost service) have no common base class, so the module
    that defines the class is checked.
    """
    from_wandb = type(error).__module__.split(".")[0] == "wandb"
    return from_wandb or isinstance(error, (OSError, RuntimeError, ImportError))


def class_ids(labels: Iterable[int], num_classes: int) -> dict[int, int]:
    """Return the W&B mask id of each class; 0 is the background.

    Args:
        labels: 0-based labels that occur.
        num_classes: number of classes of the data set.

    Returns:
        label -> id: label + 1 for every class if all ids fit into a mask, else consecutive numbers
        for the labels that occur.

    >>> class_ids([4], 2), class_ids([900, 7], 1203)
    ({0: 1, 1: 2}, {7: 1, 900: 2})
    """
    shown = range(num_classes) if num_classes <= MAX_MASK_ID else sorted(set(labels))
    return {label: k + 1 for k, label in enumerate(shown)}


def label_map(instances: Instances, ids: Mapping[int, int], canvas: tuple[int, int]) -> LabelMap:
    """Paint instances into one map of class ids.

    W&B's masks are semantic: a pixel has one class, and instances of a class merge. The instances
    with the best scores are painted last; among equal scores (ground truth), the smallest.

    Args:
        instances: instances with masks; without masks, the map is empty.
        ids: label -> id; ids that do not fit into a byte are not painted.
        canvas: (H, W) of the result; the instances are in its upper left part.

    Returns:
        (H, W) uint8, 0 where no instance is.
    """
    painted = np.zeros(canvas, dtype=np.uint8)
    if instances.masks is None:
        return painted
    window = painted[: instances.size[0], : instances.size[1]]
    labels, scores = instances.labels.tolist(), instances.scores.tolist()
    areas = instances.masks.areas().tolist()
    for k in sorted(range(len(instances)), key=lambda k: (scores[k], -areas[k])):
        if ids[labels[k]] <= MAX_MASK_ID:
            window[rle.decode(instances.masks[k], instances.size)] = ids[labels[k]]
    return painted


def box_data(
    instances: Instances,
    names: Sequence[str],
    ids: Mapping[int, int],
    canvas: tuple[int, int],
    *,
    with_scores: bool,
) -> list[dict[str, Any]]:
    """Return W&B's ``box_data``: positions as fractions of the canvas.

    Args:
        instances: boxes in pixels of the canvas.
        names: name of each class, indexed by label.
        ids: label -> id.
        canvas: (height, width).
        with_scores: whether to add the score to record and caption.
    """
    height, width = canvas
    rows = []
    for box, label, score in zip(
        instances.boxes.tolist(), instances.labels.tolist(), instances.scores.tolist(), strict=True
    ):
        row: dict[str, Any] = {
            "position": {
                "minX": box[0] / width,
                "minY": box[1] / height,
                "maxX": box[2] / width,
                "maxY": box[3] / height,
            },
            "class_id": ids[label],
            "box_caption": f"{names[label]} {score:.2f}" if with_scores else names[label],
        }
        rows.append(row | {"scores": {"score": score}} if with_scores else row)
    return rows
