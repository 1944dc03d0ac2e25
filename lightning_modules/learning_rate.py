"""Learning rates and loss weights given for a number of images per optimizer step (A306, A440)."""

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
            "lr_per_images and loss_per_images need a datamodule with batch_size; set them to null "
            "and give the learning rate and the loss weights of the batch in use"
        )
    return batch_size * int(trainer.world_size) * int(trainer.accumulate_grad_batches)


def step_scale(module: Any, per_images: int | None) -> float:
    """Return the images of a step of a module's run / ``per_images``; 1 for None."""
    return 1.0 if per_images is None else images_per_step(module.trainer) / per_images


def describe_scaling(what: str, value: float, per_images: int, trainer: Any) -> str:
    """Return a line for the log on a value that is scaled with the images of a step.

    Args:
        what: name of the value.
        value: the value for ``per_images`` images.
        per_images: the number of images per step that it was given for.
        trainer: trainer of the run.
    """
    images = images_per_step(trainer)
    scaled = value * images / per_images
    parts = f"{trainer.datamodule.batch_size} x {trainer.world_size} x "
    parts += f"{trainer.accumulate_grad_batches} (batch x processes x accumulated batches)"
    given = f"{value:g} for {per_images} images per step"
    return f"{what}: {scaled:g} for {images} = {parts}, from {given}"
