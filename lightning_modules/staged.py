"""Training in two stages: a student after its teacher, a head after its encoder.

The first stage is an ordinary run of an ordinary module. A two-stage protocol only defines the
recipe of the first stage and which of its weights the second stage loads; `train.py fit` and
`mil-cv` run both stages, and a file of weights in the recipe replaces the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from formats.weights.compare import compare_weights, some_of
from formats.weights.files import read_weights
from formats.weights.public import set_frozen_eps
from lightning_modules.base import OptimizerFactory, SchedulerFactory, TrainedModule
from lightning_modules.mil import MILModule


class StagedModule(TrainedModule):
    """Base of second stages, together with the class of their training.

    A subclass implements `first_stage` and `load_first_stage`.

    Args:
        model: see `TrainedModule`.
        optimizer: see `TrainedModule`.
        lr_scheduler: see `TrainedModule`.
        first_stage_file: weights to use as the first stage. They are read when the training
            begins; a resumed training already has them and needs no file.
        options: further arguments of the class of the training.

    Attributes:
        first_stage_argument: name of the subclass's argument that names the file.
        first_stage_weights: which weights of the first stage are loaded: ``best`` for its best
            checkpoint (the last one if no metric is monitored), or always the ``last``.
            Cross-validation, which selects no step, takes the last (A122).
        first_stage_loaded: True once the weights of the first stage have been loaded.
    """

    first_stage_argument: ClassVar[str] = ""
    first_stage_weights: ClassVar[Literal["best", "last"]] = "best"

    def __init_subclass__(cls, **options: Any) -> None:
        """Declare the file of the first stage as an argument that names initial weights."""
        super().__init_subclass__(**options)
        if cls.first_stage_argument:
            cls.starts_from = cls.starts_from | {cls.first_stage_argument: None}

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None = None,
        *,
        first_stage_file: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, optimizer, lr_scheduler, **options)
        self.first_stage_file = first_stage_file
        self.first_stage_loaded = False

    @classmethod
    def first_stage(cls, model: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the ``model`` section of the run that comes first, in plain dictionaries.

        Args:
            model: ``class_path`` and ``init_args`` of this recipe's module, as in the recipe or
                the resolved configuration; must not be modified.

        Returns:
            ``class_path`` and ``init_args`` of another module; None if a file was given or there is
            no first stage.
        """
        raise NotImplementedError

    @classmethod
    def first_stage_run(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sections of the run that the first stage has otherwise, such as ``trainer``.

        Args:
            config: the resolved configuration of the run; must not be modified.
        """
        del config
        return {}

    def load_first_stage(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of the first stage.

        Args:
            state: ``state_dict`` of the model of the first stage.

        Raises:
            ValueError: the weights do not fit exactly.
        """
        raise NotImplementedError

    @property
    def needs_first_stage(self) -> bool:
        """True if training without the weights of a first stage is an error."""
        return True

    def receive(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of the first stage and record that they are loaded."""
        self.load_first_stage(state)
        self.first_stage_loaded = True

    def on_fit_start(self) -> None:
        """Read the file of the first stage, unless a checkpoint already holds its weights.

        Raises:
            ValueError: the file is missing, broken or of another model, or the weights of the
                first stage are not available.
        """
        super().on_fit_start()
        if not self.first_stage_loaded and self.first_stage_file is not None:
            self._read(self.first_stage_file)
        self.check_first_stage()

    def check_first_stage(self) -> None:
        """Check that the weights of the first stage have been loaded.

        Raises:
            ValueError: the weights are needed and have not been loaded.
        """
        if self.needs_first_stage and not self.first_stage_loaded:
            raise ValueError(
                f"{type(self).__name__} begins with the weights of its first stage and has none; "
                f"train by `python train.py fit`, or name a file in {self.first_stage_argument}"
            )

    def _read(self, file: str) -> None:
        remedy = (
            f"give another file, or omit model.init_args.{self.first_stage_argument} to train the "
            "first stage as well"
        )
        try:
            found = read_weights(file)
            self.receive(found.tensors)
            if found.norm_eps is not None:
                self.norm_eps = found.norm_eps
                set_frozen_eps(self.model, found.norm_eps)
        except ValueError as error:
            own = str(error) if str(error).startswith(file) else f"{file}: {error}"
            raise ValueError(f"{own}; {remedy}") from None

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Also record that the checkpoint's weights include the first stage."""
        super().restore_facts(facts)
        self.first_stage_loaded = True


class StagedMILModule(StagedModule, MILModule):
    """Base of second stages on bags."""


def load_exactly(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights that must match the module's parameters exactly.

    Raises:
        ValueError: a name or a shape differs or a weight is not finite; the message lists some.
    """
    missing, unexpected, mismatched = compare_weights(state, module.state_dict())
    faults = [f"{n}: missing" for n in missing] + [f"{n}: unknown" for n in unexpected]
    faults += [f"{n}: {theirs} for {ours}" for n, (theirs, ours) in mismatched.items()]
    faults += [f"{n}: not finite" for n, v in state.items() if not bool(torch.isfinite(v).all())]
    if faults:
        raise ValueError(f"weights of another model ({some_of(faults)})")
    module.load_state_dict(dict(state), strict=True)
