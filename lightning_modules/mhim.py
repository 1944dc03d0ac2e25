"""Training of MHIM: first the plain model, then a student with that model as its teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_modules.base import OptimizerFactory, SchedulerFactory
from lightning_modules.staged import StagedMILModule, load_exactly
from models.mil.mhim import MHIM
from structures import BagBatch


class MHIMModule(StagedMILModule):
    """Second stage of MHIM; the first is a `MILModule` of the same plain model.

    The first stage has the optimizer, schedule and threshold of the second. The teacher is updated
    after each optimizer step, however many batches the step accumulates.

    Args:
        model: an `MHIM`.
        optimizer: see `MILModule`; it gets the student's parameters.
        lr_scheduler: see `MILModule`.
        teacher: checkpoint or weights of a plain model, used instead of training a first stage.
        options: further arguments of `MILModule`.

    Raises:
        TypeError: ``model`` is not an `MHIM`.
    """

    first_stage_argument = "teacher"

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None = None,
        *,
        teacher: str | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, MHIM):
            raise TypeError(f"MHIMModule trains an MHIM, not a {type(model).__name__}")
        super().__init__(model, optimizer, lr_scheduler, first_stage_file=teacher, **options)

    @property
    def mhim(self) -> MHIM:
        """The model under its own type."""
        model: Any = self.model
        return model  # type: ignore[no-any-return]

    @classmethod
    def first_stage(cls, model: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the plain model in a `MILModule`; see the base class."""
        arguments = copy.deepcopy(dict(model["init_args"]))
        if arguments.pop("teacher", None) is not None:
            return None
        learner = arguments["model"]["init_args"]["learner"]
        if isinstance(learner, str):
            learner = {"class_path": learner}
        learner.setdefault("init_args", {})
        weights = dict(arguments.get("loss_weights") or {})
        weights.pop("consistency", None)
        for name in ("init_from", "freeze"):  # weights and names of a student and its teacher
            arguments.pop(name, None)
        arguments |= {"model": learner, "loss_weights": weights or None}
        return {"class_path": "lightning_modules.mil.MILModule", "init_args": arguments}

    def load_first_stage(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights into the teacher and, where configured, into the student."""
        load_exactly(self.mhim.teacher, state)
        self.mhim.start_from_teacher()

    def training_terms(self, bags: BagBatch) -> dict[str, Tensor]:
        """Return the terms of a training step."""
        return self.mhim.training_losses(bags, self.progress)

    def after_optimizer_step(self) -> None:
        """Update the teacher."""
        self.mhim.update_teacher(self.progress)
