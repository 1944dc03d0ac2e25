"""Training of SC-MIL: embedding and classifier together, or one after the other."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lightning_modules.base import OptimizerFactory, SchedulerFactory
from lightning_modules.staged import StagedMILModule, load_exactly
from models.mil.sc_mil import SCMIL
from structures import BagBatch


class SCMILModule(StagedMILModule):
    """Training on two views of every bag; with ``two_stage``, of the head on a frozen embedding.

    In one stage, the weights of the terms follow the model's curriculum. In two stages, the first
    is this module with the contrastive term alone and the second trains the head on whole bags;
    the parameters of the embedding are then frozen, but its dropout stays active (A127).
    Validation losses are always the classifier's, with the weights of the recipe, so that epochs
    can be compared.

    Args:
        model: an `SCMIL`.
        optimizer: see `MILModule`.
        lr_scheduler: see `MILModule`.
        two_stage: train the head only, on the embedding of a first stage.
        encoder: checkpoint to use as the first stage; None to train one.
        options: further arguments of `MILModule`.

    Raises:
        TypeError: the model is not an `SCMIL`.
        ValueError: an encoder is given for a training of one stage, or the model does not consist
            of an embedding that its own gradient trains and a head.
    """

    first_stage_argument = "encoder"
    first_stage_weights = "last"  # the scores of an untrained head cannot select an epoch

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None = None,
        *,
        two_stage: bool = False,
        encoder: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, optimizer, lr_scheduler, first_stage_file=encoder, **options)
        if not isinstance(model, SCMIL):
            raise TypeError(f"SCMILModule trains an SCMIL, got {type(model).__name__}")
        if encoder is not None and not two_stage:
            raise ValueError("encoder is the first of two stages; it needs two_stage: true")
        self.two_stage = two_stage
        if two_stage:
            _check_head(model)
            model.requires_grad_(False)
            for name in model.parts.head:
                model.learner.get_parameter(name).requires_grad_()
            self.apply_freeze()
            # A weight of the first stage's term, which the second stage lacks, is no error here.
            self.loss_weights = {n: w for n, w in self.loss_weights.items() if n != "contrastive"}

    @classmethod
    def first_stage(cls, model: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the same module with the contrastive term alone; None for a run of one stage."""
        section = copy.deepcopy(dict(model))
        arguments = section["init_args"]
        if not arguments.get("two_stage") or arguments.pop("encoder", None) is not None:
            return None
        arguments["two_stage"] = False
        arguments["model"].setdefault("init_args", {})["curriculum"] = "contrastive"
        return section

    @property
    def needs_first_stage(self) -> bool:
        """True in a second stage, whose embedding a first stage has to supply."""
        return self.two_stage

    def load_first_stage(self, state: Mapping[str, Tensor]) -> None:
        """Load all weights but the head's, which only weight decay has changed in the first stage.

        Raises:
            ValueError: the weights belong to another model.
        """
        network: Any = self.model
        head = {n: network.learner.get_parameter(n) for n in network.parts.head}
        fresh = {name: parameter.detach().clone() for name, parameter in head.items()}
        load_exactly(self.model, state)
        for name, parameter in head.items():
            parameter.data.copy_(fresh[name])

    def training_terms(self, bags: BagBatch) -> dict[str, Tensor]:
        """Return the loss terms of the views, or in a second stage the classifier's on bags."""
        if self.two_stage:
            return super().training_terms(bags)
        network: Any = self.model
        terms: dict[str, Tensor] = network.training_losses(bags)
        return terms

    def loss_factors(self) -> dict[str, float]:
        """Return the curriculum's factors, or in a second stage the factors of the inner model."""
        if not self.training:
            return {}
        if not self.two_stage:
            return super().loss_factors()
        network: Any = self.model
        factors: dict[str, float] = network.model_factors(self.progress)
        return factors


def _check_head(model: SCMIL) -> None:
    if not model.parts.head:
        raise ValueError("the model has no parameter to train except those of its embedding")
    unreached = model.unreached()
    if unreached:
        raise ValueError(
            f"the embedding of {type(model.learner).__name__} depends on {list(unreached)}, "
            "which its gradient does not reach: a first stage cannot train these parameters and a "
            "second cannot keep the embedding fixed; use two_stage: false"
        )
