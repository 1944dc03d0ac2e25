"""Gallery of ground truth and predictions in a fixed selection of images at every validation."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from PIL import Image

from callbacks.after_evaluation import AfterEvaluation, split_of
from callbacks.fixed_sample import FixedSample
from callbacks.seg.dark_views import dark_views
from callbacks.seg.frames import (
    Size,
    display_size,
    image_in_frame,
    instances_in_frame,
    original_size,
    targets_in_frame,
)
from callbacks.seg.image_table import COLUMNS, image_rows
from callbacks.seg.instance_table import COLUMNS as INSTANCE_COLUMNS
from callbacks.seg.instance_table import instance_rows
from evaluation.seg.draw import (
    contact_sheet,
    draw_instances,
    enlarge,
    enlargement,
    side_by_side,
)
from loggers.run_files import run_folder, write_png
from loggers.wandb_charts import table
from loggers.wandb_media import Media, box_data, class_ids, label_map
from structures import ImageId, Instances, SegBatch
from structures.processes import gather_to_first

MAX_WIDTH = 2000  # pixels of a sheet; wider ones are shown too small to read
_GAP = 8  # pixels between images


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image with ground truth and prediction in the same frame, in host memory.

    Attributes:
        image: (h, w, 3) uint8 RGB; of an image in the dark, what there is to see.
        name: name in the caption.
        truth: the ground-truth instances.
        crowd: (K,) whether each ground-truth instance is a crowd region.
        prediction: the predictions that are shown.
        number: id of the image in its data set.
        dark: of an image in the dark, as a camera stores it and brightened; empty for others.
        reduction: square pixels of the file per square pixel of the frame.
    """

    image: npt.NDArray[np.uint8]
    name: str
    truth: Instances
    crowd: npt.NDArray[np.bool_]
    prediction: Instances
    number: ImageId = 0
    dark: tuple[npt.NDArray[np.uint8], ...] = ()
    reduction: float = 1.0


class Gallery(AfterEvaluation, ABC):
    """Draw a fixed selection of validation and test images with truth and predictions.

    Of images in the dark it also shows what a camera stores, and that brightened.

    Writes ``pictures/gallery_epoch_003.png`` during `fit`, ``gallery_val.png`` and
    ``gallery_test.png`` otherwise. Logs to W&B ``val/gallery``, a list of images with native masks
    and boxes, and ``val/gallery_drawn``; the first and the last gallery of a training and the
    galleries of `validate` and `test` are also logged as the table ``val/pictures``
    (`callbacks.seg.image_table`), and those but the first as ``val/instances``, with a row for each
    prediction and each missed object (`callbacks.seg.instance_table`). Requires a module whose
    steps return `Instances` and that has a ``category_map``; does nothing for runs on bags.

    Args:
        num_pictures: number of images shown, spread over the data set (see `FixedSample`).
        every_n_epochs: epochs between galleries (see `AfterEvaluation`).
        max_side: larger images are reduced to this many pixels on the longer side.

    Raises:
        ValueError: an argument is out of range.
    """

    order = 60
    class_agnostic = False  # whether any object may match any prediction

    def __init__(self, num_pictures: int, every_n_epochs: int, max_side: int) -> None:
        super().__init__(every_n_epochs)
        if num_pictures < 1 or max_side < 1:
            raise ValueError(
                "a gallery needs num_pictures >= 1 and max_side >= 1, got "
                f"{num_pictures} and {max_side}"
            )
        self.num_pictures = num_pictures
        self.max_side = max_side
        self._table: tuple[str, list[list[Any]]] | None = None  # the latest, not sent yet
        self._tabled = False
        self._instances: tuple[str, Callable[[], list[list[Any]]]] | None = None
        self.start()

    @abstractmethod
    def draws(self, data: Any) -> bool:
        """Return whether runs on the data of this datamodule, or of none, have this gallery."""

    @abstractmethod
    def chosen(self, prediction: Instances, size: Size) -> Instances:
        """Return the predictions of an image that are kept, in host memory.

        Args:
            prediction: in the frame of the file.
            size: of the frame in which they are shown.
        """

    @abstractmethod
    def classes(self, pl_module: pl.LightningModule) -> Sequence[str]:
        """Return the names of the labels that instances are shown with."""

    def finished(
        self, trainer: pl.Trainer, split: str, shown: Sequence[ShownImage]
    ) -> list[ShownImage]:
        """Return the images of all processes as they are shown; for the first process alone."""
        del trainer, split
        return list(shown)

    @abstractmethod
    def sheet(self, shown: Sequence[ShownImage], names: Sequence[str]) -> npt.NDArray[np.uint8]:
        """Return the drawn images on one sheet."""

    def start(self) -> None:
        """Start with an empty sample."""
        self._sample: FixedSample[ShownImage] = FixedSample(self.num_pictures)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin an epoch, unless another gallery is for its data."""
        super().on_validation_start(trainer, pl_module)
        self._step_aside(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin an epoch, unless another gallery is for its data."""
        super().on_test_start(trainer, pl_module)
        self._step_aside(trainer)

    def _step_aside(self, trainer: pl.Trainer) -> None:
        if not self.draws(getattr(trainer, "datamodule", None)):
            self._stage = None

    def keep(self, pl_module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        """Keep the chosen images of the batch."""
        if not isinstance(batch, SegBatch):
            return
        data = getattr(getattr(pl_module, "trainer", None), "datamodule", None)
        for position, index in enumerate(batch.index.tolist()):
            if self._sample.wants(index):
                self._sample.add(index, self._shown(batch, position, outputs[position], data))

    def draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draw, write and log the gallery."""
        states = gather_to_first(self._sample.state())
        folder = run_folder(trainer, "pictures")
        if not trainer.is_global_zero:
            return
        self._sample.merge(states)
        split = split_of(stage)
        shown = self.finished(trainer, split, [image for _, image in self._sample.items()])
        if not shown:
            return
        names = self.classes(pl_module)
        sheet = self.sheet(shown, names)
        if folder is not None:
            write_png(folder / f"gallery_{stage}.png", sheet)
        when = stage.replace("_", " ")
        if self.wandb.enabled(trainer):
            media = native_media(shown, names, when)
            self.wandb.log(trainer, f"{split}/gallery", media)
            self.wandb.log(trainer, f"{split}/gallery_drawn", [Media(sheet, when)])
            rows = image_rows([(s.name, s.truth, s.crowd, s.prediction) for s in shown], media)
            self._table = f"{split}/pictures", rows
            make = functools.partial(
                instance_rows, shown, names, class_agnostic=self.class_agnostic
            )
            self._instances = f"{split}/instances", make
            if not stage.startswith("epoch"):
                self._send_instances(trainer)
            if not self._tabled or not stage.startswith("epoch"):
                self._send_table(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last validation if it was skipped, and send the last table."""
        super().on_train_end(trainer, pl_module)
        self._send_table(trainer)
        self._send_instances(trainer)
        self._tabled = False

    def _send_instances(self, trainer: pl.Trainer) -> None:
        pending, self._instances = self._instances, None
        if pending is not None and (rows := pending[1]()):
            self.wandb.send(trainer, pending[0], lambda: table(INSTANCE_COLUMNS, rows))

    def _send_table(self, trainer: pl.Trainer) -> None:
        pending, self._table = self._table, None
        if pending is not None:
            key, rows = pending
            self.wandb.send(trainer, key, lambda: table(COLUMNS, rows))
            self._tabled = True

    def _shown(
        self, batch: SegBatch, position: int, prediction: Instances, data: Any
    ) -> ShownImage:
        file = original_size(batch, position)
        size = display_size(file, self.max_side)
        views = dark_views(data, split_of(self._stage or ""), batch, position, size)
        truth, crowd = targets_in_frame(batch, position, size)
        number = batch.image_ids[position] if batch.image_ids else int(batch.index[position])
        return ShownImage(
            image=image_in_frame(batch, position, size) if views is None else views.seen,
            name=f"image {number}",
            truth=truth,
            crowd=crowd,
            prediction=self.chosen(prediction, size),
            number=number,
            dark=() if views is None else (views.stored, views.bright),
            reduction=file[0] * file[1] / (size[0] * size[1]),
        )


class MaskGallery(Gallery):
    """Draw ground truth next to predictions for a fixed selection of validation and test images.

    See `Gallery`. Runs with known and novel categories have `KnownUnknownGallery` instead.

    Args:
        num_pictures: number of images shown, spread over the data set (see `FixedSample`).
        every_n_epochs: epochs between galleries (see `AfterEvaluation`).
        score: predictions with a lower score are not shown.
        max_side: larger images are reduced to this many pixels on the longer side.

    Raises:
        ValueError: an argument is out of range.
    """

    entry = "gallery"

    def __init__(
        self,
        num_pictures: int = 8,
        every_n_epochs: int = 1,
        score: float = 0.5,
        max_side: int = 640,
    ) -> None:
        super().__init__(num_pictures, every_n_epochs, max_side)
        if not 0 <= score <= 1:
            raise ValueError(f"a gallery needs score in [0, 1], got {score}")
        self.score = score

    def draws(self, data: Any) -> bool:
        """Return whether the data have no known and novel categories."""
        return getattr(data, "known_split", None) is None

    def chosen(self, prediction: Instances, size: Size) -> Instances:
        """Return the predictions that reach the score, in the frame in which they are shown."""
        return instances_in_frame(prediction.select(prediction.scores >= self.score), size)

    def classes(self, pl_module: pl.LightningModule) -> Sequence[str]:
        """Return the names of the classes."""
        module: Any = pl_module
        names: Sequence[str] = module.category_map.names
        return names

    def sheet(self, shown: Sequence[ShownImage], names: Sequence[str]) -> npt.NDArray[np.uint8]:
        """Return ground truth and prediction side by side."""
        return draw_sheet(shown, names, self.score)


def draw_sheet(
    shown: Sequence[ShownImage], class_names: Sequence[str], score: float
) -> npt.NDArray[np.uint8]:
    """Return one image of at most `MAX_WIDTH` with ground truth and prediction side by side.

    Images in the dark have a row each, with the dark and the brightened image before the two.

    Args:
        shown: the images.
        class_names: name of each class, indexed by label.
        score: predictions with a lower score are not among those of ``shown``.
    """
    above = f"{score:g}".lstrip("0") or "0"
    dark = any(one.dark for one in shown)
    together = 1 if dark else min(len(shown), 2)  # images in a row
    views = 4 if dark else 2
    widest = ((MAX_WIDTH - _GAP) // together - (views + 2) * _GAP) // views
    pairs = []
    for one in shown:
        truth = draw_instances(
            one.image,
            one.truth.boxes,
            one.truth.labels,
            one.truth.masks,
            class_names,
            crowd=one.crowd,
        )
        found = one.prediction
        prediction = draw_instances(
            one.image, found.boxes, found.labels, found.masks, class_names, scores=found.scores
        )
        kinds = (
            "truth" if len(one.truth) else "no object",
            ("prediction" if len(found) else f"no prediction above {above}"),
        )
        captions = f"{one.name}: {kinds[0]}", f"{one.name}: {kinds[1]}"
        pair = side_by_side(_fitting(truth, widest), _fitting(prediction, widest), captions)
        pairs.append(_beside_dark(one, pair, widest) if one.dark else pair)
    return contact_sheet(pairs, columns=together, gap=_GAP)


def _beside_dark(
    one: ShownImage, pair: npt.NDArray[np.uint8], widest: int
) -> npt.NDArray[np.uint8]:
    """Return the dark and the brightened image on the left of a pair of the same height."""
    factor = enlargement(*one.image.shape[:2])  # as the pair
    plain = [_fitting(enlarge(image, factor), widest) for image in one.dark]
    captions = f"{one.name}: in the dark", f"{one.name}: brightened"
    return np.concatenate([side_by_side(plain[0], plain[1], captions)[:, :-_GAP], pair], axis=1)


def _fitting(image: npt.NDArray[np.uint8], widest: int) -> npt.NDArray[np.uint8]:
    """Return an image, reduced if it is wider than ``widest`` pixels."""
    height, width = image.shape[:2]
    if width <= widest:
        return image
    size = widest, max(1, round(height * widest / width))
    return np.asarray(Image.fromarray(image).resize(size, reducing_gap=2.0))


def native_media(shown: Sequence[ShownImage], class_names: Sequence[str], when: str) -> list[Media]:
    """Return images with native W&B masks and boxes, which can be switched on and off.

    W&B shows a list correctly only if all images have the same size, so smaller ones are padded
    with black at the bottom and on the right. Crowd regions are left out.

    Args:
        shown: the images.
        class_names: name of each class, indexed by label.
        when: start of the caption.
    """
    canvas = max(s.image.shape[0] for s in shown), max(s.image.shape[1] for s in shown)
    parts = [{"prediction": s.prediction, "truth": _without_crowd(s)} for s in shown]
    occurring = [label for p in parts for found in p.values() for label in found.labels.tolist()]
    ids = class_ids(occurring, len(class_names))
    titles = {number: class_names[label] for label, number in ids.items()}
    media = []
    for one, part in zip(shown, parts, strict=True):
        image = np.zeros((*canvas, 3), dtype=np.uint8)
        image[: one.image.shape[0], : one.image.shape[1]] = one.image
        masks = {
            kind: {
                "mask_data": label_map(found, ids, canvas),
                "class_labels": {0: "background"} | titles,
            }
            for kind, found in part.items()
        }
        boxes = {
            kind: {
                "box_data": box_data(
                    found, class_names, ids, canvas, with_scores=kind == "prediction"
                ),
                "class_labels": titles,
            }
            for kind, found in part.items()
        }
        media.append(Media(image, f"{when}, {one.name}", masks, boxes))
    return media


def _without_crowd(one: ShownImage) -> Instances:
    return one.truth.select(torch.from_numpy(~one.crowd))
