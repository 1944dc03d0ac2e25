"""Learning rates that are given for a number of images per optimizer step (A306)."""

from __future__ import annotations

from typing import Any


def images_per_step(trainer: Any) -> int:
    """Return the images of an optimizer step over all processes and accumulated batches.

    Raises:
        ValueError: the datamodule of the trainer states no ``batch_size``.
    """
    batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    if not isinstance(batch_size, int):
        raise ValueError(
            "lr_per_images needs a datamodule with batch_size; set lr_per_images: null and give "
            "the learning rate of the batch in use"
        )
    return batch_size * int(trainer.world_size) * int(trainer.accumulate_grad_batches)


def describe_scaling(lr: float, lr_per_images: int, trainer: Any) -> str:
    """Return a line for the log on a scaled learning rate."""
    images = images_per_step(trainer)
    scaled = lr * images / lr_per_images
    parts = f"{trainer.datamodule.batch_size} x {trainer.world_size} x "
    parts += f"{trainer.accumulate_grad_batches} (batch x processes x accumulated batches)"
    given = f"{lr:g} for {lr_per_images} images per step"
    return f"learning rate: {scaled:g} for {images} = {parts}, from {given}"
