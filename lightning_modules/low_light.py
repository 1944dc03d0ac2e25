"""Training on pairs of a clean and a dark view of the same images (DSL)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_modules.base import OptimizerFactory, SchedulerFactory
from lightning_modules.segmentation import SegmentationModule
from models.losses.dsl import dsl_loss
from structures import SegBatch
from structures.processes import mean_over_processes


class LowLightModule(SegmentationModule):
    """Training of any segmentation model with a ``backbone`` on both views of every image.

    The loss is L(clean) + L(dark) + DSL, see `dsl_loss`; ``train/loss_<term>`` of the model is the
    sum of both views, ``train/loss_dsl`` and ``train/dsl_clamped`` are logged beside it. DSL
    compares the outputs of ``backbone.body``, before a pyramid, or those of a backbone without a
    body. Each view is a pass of its own, with the same random choices, so that L is the model's
    loss whatever its norms and denominators are; both passes are in memory at once (A487).
    Validation sees the dark view alone, and so do the running statistics of batch norms (A536).

    Args:
        model: a `SegModel` with the attribute ``backbone``.
        optimizer: see `SegmentationModule`.
        lr_scheduler: see `SegmentationModule`.
        options: further arguments of `SegmentationModule`; ``loss_weights`` may name ``dsl``.

    Raises:
        TypeError: ``model`` has no ``backbone``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(getattr(model, "backbone", None), nn.Module):
            raise TypeError(
                f"LowLightModule needs a model with a backbone, not {type(model).__name__}"
            )
        super().__init__(model, optimizer, lr_scheduler, **options)

    def setup(self, stage: str) -> None:
        """Also check that the data give pairs.

        Raises:
            ValueError: they do not, or see `SegmentationModule`.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and not getattr(data, "gives_pairs", False):
            raise _no_pairs()
        super().setup(stage)

    def training_terms(self, batch: SegBatch) -> dict[str, Tensor]:
        """Return the sums of the terms of both views and ``dsl``; log ``train/dsl_clamped``.

        Raises:
            ValueError: the batch has no clean view, or see `SegmentationModule`.
        """
        if batch.clean_images is None:
            raise _no_pairs()
        dark = dataclasses.replace(batch, clean_images=None)
        clean = dataclasses.replace(dark, images=batch.clean_images)
        backbone: Any = self.model.backbone
        with _levels(getattr(backbone, "body", backbone)) as levels:
            with _kept_statistics(self.model):
                of_clean = super().training_terms(clean)
            of_dark = super().training_terms(dark)
        dsl = dsl_loss(levels[0], levels[1])
        share = mean_over_processes(dsl.clamped)
        self.log("train/dsl_clamped", share, on_step=True, on_epoch=False, batch_size=len(batch))
        return {name: of_clean[name] + of_dark[name] for name in of_clean} | {"dsl": dsl.loss}


@contextlib.contextmanager
def _levels(body: nn.Module) -> Iterator[list[list[Tensor]]]:
    """Collect the outputs of every call of a module."""
    calls: list[list[Tensor]] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        calls.append(list(output.values() if isinstance(output, Mapping) else output))

    handle = body.register_forward_hook(keep)
    try:
        yield calls
    finally:
        handle.remove()


@contextlib.contextmanager
def _kept_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms in training use the statistics of their batches and keep none."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.training and norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _no_pairs() -> ValueError:
    return ValueError(
        "LowLightModule trains on pairs of a clean and a dark image, and the data give none; set "
        "data.init_args.low_light.clean: true for images of ordinary light and for LIS in the "
        "dark, or train by lightning_modules.segmentation.SegmentationModule"
    )
