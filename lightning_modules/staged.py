"""A training that another one precedes: a student after its teacher, a head after its encoder.

The first stage is an ordinary run of an ordinary module. What its recipe is, and what the second
stage takes over of its weights, is all that a protocol of two stages says; `train.py fit` and
`mil-cv` run both, and a file of weights in the recipe takes the place of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from formats.weights.compare import compare_weights, some_of
from formats.weights.files import read_file, state_dict_of
from lightning_modules.base import OptimizerFactory, SchedulerFactory
from lightning_modules.mil import MILModule


class StagedMILModule(MILModule):
    """Base of the second stages; a subclass gives `first_stage` and `load_first_stage`.

    Args:
        model: see `MILModule`.
        optimizer: likewise.
        lr_scheduler: likewise.
        first_stage_file: weights that stand for the first stage. They are read when the training
            begins; a training that is resumed has taken them over and needs no file.
        options: further arguments of `MILModule`.

    Attributes:
        first_stage_argument: name of the subclass's argument that names the file.
        first_stage_weights: which of the first stage's weights are taken: those of its ``best``
            checkpoint, of the last step where nothing is monitored, or always the ``last``.
            Cross-validation, which chooses no step, takes the last (A122).
        first_stage_loaded: the weights are there, from either stage.
    """

    first_stage_argument: ClassVar[str] = ""
    first_stage_weights: ClassVar[Literal["best", "last"]] = "best"

    def __init_subclass__(cls, **options: Any) -> None:
        """Count the file of the first stage among what a training starts from."""
        super().__init_subclass__(**options)
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
            model: ``class_path`` and ``init_args`` of this recipe's module, as the recipe or the
                resolved configuration has them; not to be changed.

        Returns:
            The same of another `MILModule`; None where a file was named or nothing comes first.
        """
        raise NotImplementedError

    def load_first_stage(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of the first stage.

        Args:
            state: ``state_dict`` of its model.

        Raises:
            ValueError: they do not fit exactly.
        """
        raise NotImplementedError

    @property
    def needs_first_stage(self) -> bool:
        """Whether training without the weights of a first stage is an error."""
        return True

    def receive(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of the first stage, once."""
        self.load_first_stage(state)
        self.first_stage_loaded = True

    def on_fit_start(self) -> None:
        """Read the named file, unless a checkpoint has brought what came of it.

        Raises:
            ValueError: the file is missing, broken or of another model, or nothing brings the
                weights that the training begins with.
        """
        super().on_fit_start()
        if not self.first_stage_loaded and self.first_stage_file is not None:
            self._read(self.first_stage_file)
        self.check_first_stage()

    def check_first_stage(self) -> None:
        """Refuse to train without the weights that the training begins with.

        Raises:
            ValueError: they are needed and nothing has brought them.
        """
        if self.needs_first_stage and not self.first_stage_loaded:
            raise ValueError(
                f"{type(self).__name__} begins with the weights of its first stage and has none; "
                f"train by `train.py fit`, or name a file in {self.first_stage_argument}"
            )

    def _read(self, file: str) -> None:
        remedy = (
            f"give another file, or leave model.init_args.{self.first_stage_argument} out to have "
            "the first stage trained as well"
        )
        try:
            self.receive(state_dict_of(read_file(file)))
        except ValueError as error:
            own = str(error) if str(error).startswith(file) else f"{file}: {error}"
            raise ValueError(f"{own}; {remedy}") from None

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Also note that the checkpoint's weights have the first stage behind them."""
        super().restore_facts(facts)
        self.first_stage_loaded = True


def load_exactly(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights that must be those of the module, all of them and no others.

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
