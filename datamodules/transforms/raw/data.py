"""What a datamodule of images needs for the option ``low_light``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytorch_lightning as pl

from datamodules.sampling.keys import SampleKey
from datamodules.transforms.raw.display import DarkImages, dark_images
from datamodules.transforms.raw.low_light import (
    Light,
    LowLightOptions,
    low_light_views,
    sample_keys,
)
from structures import SegBatch


class LowLightData(pl.LightningDataModule):
    """Darkens batches after they were moved to the device; base of the segmentation datamodules.

    In training every image is dark, with noise that follows from (seed, epoch, index) (A494); in
    validation and test from (seed, index). Images to predict are not darkened, but shown to the
    network in the form that it knows (A492).

    Attributes:
        already_dark: all images were taken in the dark: they are left as they are.
        seed: of the data.
        low_light: the options, or None to leave images as they are.
    """

    already_dark = False
    seed: int
    eval_dataset: Any  # a method of the segmentation datamodules

    def __init__(self, low_light: LowLightOptions | Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.low_light = LowLightOptions.of(low_light)

    @property
    def in_channels(self) -> int:
        """Number of channels of the images that the model gets."""
        return 3 if self.low_light is None else self.low_light.channels

    @property
    def gives_pairs(self) -> bool:
        """Whether training batches have a clean view."""
        wanted = self.low_light is not None and self.low_light.clean
        return wanted and not self.left_alone("train")

    def left_alone(self, split: str) -> bool:
        """Return whether the images of a split were taken in the dark, so that nothing is added."""
        del split
        return self.already_dark

    def low_light_arguments(self) -> dict[str, Any]:
        """Return the arguments that darken other images as those of the validation."""
        if self.low_light is None:
            return {}
        return {"low_light": self.low_light.record(), "seed": self.seed}

    def shows_dark(self, split: str) -> bool:
        """Return whether people see little on the images of an evaluated split."""
        if self.low_light is None or split == "predict" or self.left_alone(split):
            return self.left_alone(split)
        return self.low_light.evaluate == "dark"

    def dark_image(self, split: str, index: int) -> DarkImages | None:
        """Return an image of an evaluated split in the dark, at the size that the network gets.

        Its noise is that of the validation or test. It is prepared anew from its source, so this is
        for the few images that are drawn.

        Returns:
            Images (1, 3, h, w); None where images are left as they are.
        """
        if self.low_light is None or self.left_alone(split):
            return None
        sample: SegBatch = self.eval_dataset(split)[SampleKey(index)]
        return dark_images(sample.images, sample_keys(self.seed, sample.index), self.low_light)

    def on_after_batch_transfer(self, batch: SegBatch, dataloader_idx: int) -> SegBatch:
        """Return the batch in low light, on its device; in training also its clean images."""
        del dataloader_idx
        trainer: Any = self.trainer
        stages = {"training": "train", "testing": "test", "predicting": "predict"}
        split = next((stages[name] for name in stages if getattr(trainer, name, False)), "val")
        if self.low_light is None or self.left_alone(split):
            return batch
        training, predicting = split == "train", split == "predict"
        return in_low_light(
            batch,
            self.low_light,
            self.seed,
            epoch=trainer.current_epoch if training else None,
            dark=training or (self.low_light.evaluate == "dark" and not predicting),
        )


def in_low_light(
    batch: SegBatch,
    options: LowLightOptions,
    seed: int,
    *,
    epoch: int | None = None,
    dark: bool,
) -> SegBatch:
    """Return a batch with the images that a camera makes of its scenes.

    Args:
        batch: ordinary images.
        options: of the recipe.
        seed: of the data.
        epoch: of the training; None in evaluation.
        dark: in the dark, or in normal light.
    """
    clean = epoch is not None and options.clean
    views = low_light_views(
        batch.images,
        batch.sizes,
        sample_keys(seed, batch.index, epoch),
        options,
        dark=dark,
        normal=clean or not dark,
    )
    images = views.dark if dark else views.normal
    assert images is not None
    return dataclasses.replace(batch, images=images, clean_images=views.normal if clean else None)


def in_normal_light(batch: SegBatch, preprocessing: Mapping[str, Any]) -> SegBatch:
    """Return ordinary images in the form that a checkpoint's network knows.

    Args:
        batch: images that are prepared as in the checkpoint's validation otherwise.
        preprocessing: ``facts.preprocessing`` of the checkpoint.
    """
    options = LowLightOptions.of(preprocessing.get("low_light"))
    if options is None:
        return batch
    return in_low_light(batch, options, int(preprocessing["seed"]), dark=False)


class LightChange(NamedTuple):
    """Light under which a checkpoint is evaluated, instead of its own.

    A checkpoint that was trained without ``low_light`` knows sRGB images: in the dark it gets what
    the camera stores (``input: srgb``, other options as their defaults), in normal light the
    images themselves (A493).

    Attributes:
        evaluate: ``dark`` or ``normal``.
        ratio: reduction of the exposure of all images; None for the checkpoint's range.
        bits: precision of the RAW data; None for the checkpoint's.
    """

    evaluate: Light
    ratio: float | None = None
    bits: int | None = None

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the argument ``low_light`` that replaces the one of a checkpoint.

        Args:
            given: the arguments of a datamodule, with ``low_light`` if the checkpoint has it.
        """
        own = LowLightOptions.of(given.get("low_light"))
        if own is None and self.evaluate == "normal":
            return {}
        changes: dict[str, Any] = {"evaluate": self.evaluate}
        if self.ratio is not None:
            changes["ratio"] = (self.ratio, self.ratio)
        if self.bits is not None:
            changes["bits"] = self.bits
        base = LowLightOptions(input="srgb") if own is None else own
        return {"low_light": dataclasses.replace(base, **changes)}
