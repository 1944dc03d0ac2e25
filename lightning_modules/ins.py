"""Training of INS: warm-up and the memory kept between steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_modules.base import OptimizerFactory, SchedulerFactory
from lightning_modules.mil import MILModule
from models.mil.ins import INS
from structures import BagBatch


class INSModule(MILModule):
    """Training of an `INS` on instances, with queue, prototypes and pseudo targets in ``memory``.

    The memory belongs to the training, not to the network: it is saved and restored with the
    weights, but excluded from weight averaging.

    Args:
        model: an `INS`.
        optimizer: see `MILModule`.
        lr_scheduler: see `MILModule`.
        options: further arguments of `MILModule`.

    Raises:
        TypeError: ``model`` is not an `INS`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, INS):
            raise TypeError(f"INSModule trains models.mil.ins.INS, not {type(model).__name__}")
        super().__init__(model, optimizer, lr_scheduler, **options)
        self.memory = model.new_memory()

    @property
    def learner(self) -> INS:
        """The model under its own type."""
        assert isinstance(self.model, INS)
        return self.model

    def setup(self, stage: str) -> None:
        """Also create the table of pseudo targets before training."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is not None and stage == "fit":
            labels, sizes, _ = data.contents("train")
            self.set_training_bags(np.asarray(data.numbers("train")), labels, sizes)

    def set_training_bags(
        self, numbers: npt.NDArray[Any], labels: npt.NDArray[Any], sizes: npt.NDArray[Any]
    ) -> None:
        """Create the table of pseudo targets."""
        columns = (torch.from_numpy(np.ascontiguousarray(c)) for c in (numbers, labels, sizes))
        self.memory.set_training_bags(*columns)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Outside training, accept a table of any training bags; see `MILModule` for the rest."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.memory.make_room(checkpoint["state_dict"], "memory.")
        super().on_load_checkpoint(checkpoint)

    def training_terms(self, bags: BagBatch) -> dict[str, Tensor]:
        """Return the loss terms of a training step, which updates the memory."""
        return self.learner.training_losses(bags, self.progress, self.memory)

    def loss_factors(self) -> dict[str, float]:
        """Return 0 for ``bag``, which is only monitored, and 1 for ``pooled`` during warm-up."""
        if not self.training:
            return {}
        return {"bag": 0.0, "pooled": float(self.progress < self.learner.warmup)}

    def after_optimizer_step(self) -> None:
        """Update the second network."""
        self.learner.update_keys()
