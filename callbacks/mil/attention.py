"""Figure of the attention in a fixed selection of bags at every validation."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from torch import Tensor

from callbacks.after_evaluation import AfterEvaluation, split_of
from callbacks.fixed_sample import FixedSample, priority
from callbacks.mil.bag_outputs import BagAttention, bag_attention
from callbacks.mil.slide_parts import slide_source
from callbacks.mil.titles import bag_titles
from evaluation.report.attention_map import plot_attention_map
from evaluation.report.plots import plot_attention
from evaluation.seg.draw import contact_sheet
from loggers.run_files import rasterise, run_folder, write_png
from loggers.wandb_media import Media
from structures import BagBatch
from structures.processes import gather_to_first

MAX_IMAGE_BYTES = 2**25  # per bag; larger bags are shown as bars


@dataclass(frozen=True, slots=True)
class ShownBag:
    """A bag with its attention, in host memory.

    Attributes:
        attention: weights and instance labels.
        images: (n, h, w) or (n, h, w, 3) uint8 images of the instances, or None.
        label: class number; for a multilabel task, 1 if any class is present.
        title: name, true class and probability.
    """

    attention: BagAttention
    images: npt.NDArray[np.uint8] | None
    label: int
    title: str


class AttentionFigure(AfterEvaluation):
    """Draw the attention of a fixed selection of validation and test bags.

    The bags are taken from all classes in turn, so half of them are positive in a binary task. Bags
    whose features are images are shown with their instances, bags whose patches have coordinates
    (slides) as maps, one for each slide of a patient, others as bars. Attention with several
    branches is averaged. Writes ``pictures/attention_epoch_003.png`` during `fit`,
    ``attention_val.png`` and ``attention_test.png`` otherwise, and logs the figure to W&B. Requires
    a module whose steps return `MILOutput` and that has ``task`` and ``class_names``; does nothing
    for models without attention and for runs on images.

    Args:
        num_bags: number of bags shown, spread over the data set (see `FixedSample`).
        every_n_epochs: epochs between figures (see `AfterEvaluation`).
        pixels: whether flat features of square length are the pixels of an instance. None: true if
            all values of the bag are in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    entry = "attention"
    order = 70

    def __init__(
        self, num_bags: int = 4, every_n_epochs: int = 10, pixels: bool | None = None
    ) -> None:
        super().__init__(every_n_epochs)
        if num_bags < 1:
            raise ValueError(f"num_bags must be at least 1, got {num_bags}")
        self.num_bags = num_bags
        self.pixels = pixels
        self.start()

    def start(self) -> None:
        """Start with an empty sample per class."""
        self._samples: dict[int, FixedSample[ShownBag]] = {}

    def keep(self, pl_module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        """Keep the chosen bags of the batch."""
        if not isinstance(batch, BagBatch) or outputs.attention is None:
            return
        labels = batch.labels if batch.labels.ndim == 1 else batch.labels.amax(dim=1)
        groups = labels.tolist()
        wanted = [
            b
            for b, index in enumerate(batch.index.tolist())
            if self._samples.setdefault(groups[b], FixedSample(self.num_bags)).wants(index)
        ]
        if not wanted:
            return
        source = slide_source(self.data, self.split)
        attention = bag_attention(batch, outputs.attention, source)
        titles = bag_titles(pl_module, outputs, batch)
        for b in wanted:
            features = batch.features[batch.offsets[b] : batch.offsets[b + 1]]
            shown = ShownBag(
                attention[b], instance_images(features, self.pixels), groups[b], titles[b]
            )
            self._samples[groups[b]].add(attention[b].index, shown)

    def draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draw, write and log the figure."""
        del pl_module
        states = gather_to_first({group: s.state() for group, s in self._samples.items()})
        folder = run_folder(trainer, "pictures")
        if not trainer.is_global_zero:
            return
        for state in states:
            for group, part in state.items():
                self._samples.setdefault(group, FixedSample(self.num_bags)).merge([part])
        shown = self._chosen()
        if not shown:
            return
        sheet = contact_sheet([draw_bag(one) for one in shown], columns=2)
        if folder is not None:
            write_png(folder / f"attention_{stage}.png", sheet)
        key = f"{split_of(stage)}/attention"
        self.wandb.log(trainer, key, [Media(sheet, stage.replace("_", " "))])

    def _chosen(self) -> list[ShownBag]:
        """Return bags taken from the classes in turn, sorted by class and number."""
        queues = [sorted(s.items(), key=_by_priority) for _, s in sorted(self._samples.items())]
        rounds = itertools.zip_longest(*queues)
        chosen = [pair for pairs in rounds for pair in pairs if pair is not None][: self.num_bags]
        return [bag for _, bag in sorted(chosen, key=lambda pair: (pair[1].label, pair[0]))]


def draw_bag(one: ShownBag) -> npt.NDArray[np.uint8]:
    """Return the figure of one bag as an image."""
    known, weights = one.attention, one.attention.weights.mean(axis=1)
    places = known.places() if one.images is None else None
    if places is not None:
        slides = [(part.slide, part.rows) for part in known.parts]
        return rasterise(plot_attention_map(weights, places, known.witness, one.title, slides))
    return rasterise(plot_attention(weights, one.images, known.witness, one.title))


def instance_images(features: Tensor, pixels: bool | None) -> npt.NDArray[np.uint8] | None:
    """Return the instances of a bag as images, scaled to the range of values of the bag.

    Args:
        features: (n, C, h, w) with one or three channels, or (n, k * k).
        pixels: see `AttentionFigure`.

    Returns:
        (n, h, w) or (n, h, w, 3), or None if the features are not images or too large.
    """
    if features.ndim == 2:
        side = math.isqrt(features.shape[1])
        if side * side != features.shape[1]:
            return None
        if pixels is None:
            pixels = bool(((features >= 0) & (features <= 1)).all())
        if not pixels:
            return None
        features = features.reshape(-1, 1, side, side)
    if features.ndim != 4 or features.shape[1] not in (1, 3):
        return None
    if features.numel() > MAX_IMAGE_BYTES:
        return None
    values = features.detach().float().cpu()
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low).clamp(min=1e-12) * 255
    images: npt.NDArray[np.uint8] = scaled.round().byte().permute(0, 2, 3, 1).numpy()
    return images[..., 0] if images.shape[-1] == 1 else images


def _by_priority(pair: tuple[int, ShownBag]) -> int:
    return priority(pair[0])
