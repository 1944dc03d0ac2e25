"""Adapter of recipes to the algorithmic unit tests, with their own losses and training protocol.

The tests (`evaluation.mil_assumptions.suite`, docs/mil_assumptions.md) train any module through an
adapter. In addition to its network, a recipe's `MILModule` defines the loss terms of a training
step and their weights, the update after an optimizer step, and a first training stage. `RecipeBags`
applies them, as `engine.cross_validation.folds` does in a cross-validation. The tests keep their
own optimizer, batch size, number of steps and gradient clipping, which are the same for all models
(A189).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints.stages import staged_class
from engine.config.installed import recipes_place
from engine.config.recipe import Recipe, overlaid
from engine.config.sections import module_builder
from evaluation.mil_assumptions.bag_models import Bags, PackedModel, pack_bags
from lightning_modules.mil import MILModule
from lightning_modules.staged import StagedMILModule


class RecipeBags(PackedModel):
    """A `MILModule` with the interface of the tests: bags in, logits and a training loss out.

    Args:
        module: module of a binary task.
        name: name of the model in messages.
        first: model of the first training stage, or None.

    Attributes:
        module: the module; its ``model`` is the network that is called.
    """

    adapter = "recipe"
    remedy = "the recipe's model is called with a BagBatch of vectors; look at its arguments"

    def __init__(self, module: MILModule, name: str, first: RecipeBags | None = None) -> None:
        super().__init__(module.model, name)
        self.module = module  # holds all trained parameters, also those outside the network
        self._module, self._first = module, first

    def loss(self, bags: Bags, labels: Tensor) -> Tensor:
        """Return the weighted sum of the terms of a training step.

        Args:
            bags: tensors of shape (n_i, D).
            labels: (B,) int64, 0 or 1.

        Raises:
            ValueError: a term is not finite.
        """
        batch = pack_bags(bags, labels, self._numbers)
        terms = self._module.training_terms(batch)
        return self._module.total_loss(terms, batch.index.tolist())

    def first_stage(self) -> RecipeBags | None:
        """Return the first-stage model, which is trained on the same bags, or None."""
        return self._first

    def before_training(self, labels: Tensor, sizes: Tensor) -> None:
        """Load the first stage's weights and set the training bags of the module.

        Args:
            labels: (n,) labels of the training bags, which are numbered 0 to n - 1.
            sizes: (n,) numbers of instances.
        """
        if isinstance(self._module, StagedMILModule):
            if self._first is not None:
                self._module.receive(self._first._module.model.state_dict())
            self._module.check_first_stage()
        numbers = torch.arange(len(labels))
        self._module.set_training_bags(numbers.numpy(), labels.numpy(), sizes.numpy())

    def before_step(self, progress: float, numbers: Tensor) -> None:
        """Set the fraction of the training that is done and the bags of the step."""
        super().before_step(progress, numbers)
        self._module.progress = progress

    def after_step(self) -> None:
        """Run the module's update after an optimizer step."""
        self._module.after_optimizer_step()


@dataclass(frozen=True)
class RecipeModel:
    """Factory of `RecipeBags` from a seed; picklable, so that seeds can run in processes.

    Attributes:
        recipe: file of the recipe, for messages.
        section: its ``model`` section with the changes.
        first: ``model`` section of the first stage, or None.
        in_features: number of features of an instance.
    """

    recipe: Path
    section: dict[str, Any] = field(repr=False)
    first: dict[str, Any] | None = field(default=None, repr=False)
    in_features: int = 16

    @property
    def choice(self) -> str:
        """Return where the model comes from, for messages."""
        return f"the recipe {self.recipe}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that were read."""
        return (self.recipe,)

    def __call__(self, seed: int) -> RecipeBags:
        """Return a model with initial weights that depend only on the seed."""
        torch.manual_seed(seed)
        module = module_builder(self.section)(2, self.in_features, "binary")
        if self.first is None:
            return RecipeBags(module, self.name)
        first = module_builder(self.first)(2, self.in_features, "binary")
        return RecipeBags(module, self.name, RecipeBags(first, f"the first stage of {self.name}"))

    @property
    def name(self) -> str:
        """Name of the model in messages."""
        return str(self.recipe)


def recipe_model(
    recipe: str | Path,
    init_args: Mapping[str, Any] | None = None,
    in_features: int = 16,
    *,
    adapter: str | None = None,
) -> RecipeModel:
    """Return a factory of the model of a MIL recipe.

    Args:
        recipe: YAML file of a `MILModule`, such as a recipe of configs/mil.
        init_args: changes of the model's arguments; a mapping is merged into the arguments of a
            nested model, unless it names another class. The table of docs/METHODS.md has small
            variants (A190).
        in_features: number of features of an instance.
        adapter: the adapter of the command line; it must be None, because recipes need none.

    Raises:
        ValueError: the file or an argument is wrong, the module is not a `MILModule`, the recipe
            names weights of a first stage (which has other features), or an adapter is given.
    """
    recipe = Path(recipe)
    if adapter is not None:
        raise ValueError(f"--adapter {adapter} is for dotted names; {recipe} needs none")
    if not recipe.is_file():
        raise ValueError(f"{recipe}: no such file; --model names a recipe or a Python class")
    section = Recipe.of(recipe).section("model")
    kind = section.get("class_path")
    if not _is_mil_module(str(kind)):
        raise ValueError(
            f"{recipe}: {kind} does not train on bags; name a recipe of {recipes_place()}mil"
        )
    arguments = section.get("init_args") or {}
    network = arguments.get("model")
    if isinstance(network, str):
        network = {"class_path": network}
    if not isinstance(network, dict):
        raise ValueError(f"{recipe}: model.init_args.model names no model of bags")
    changes = dict(init_args or {})
    network["init_args"] = overlaid(network.get("init_args") or {}, changes, "", replace=True)
    arguments["model"] = network
    staged, first = staged_class(section), None
    if staged is not None:
        argument = staged.first_stage_argument
        if arguments.get(argument) is not None:
            raise ValueError(
                f"{recipe}: {argument} names weights for other features than the tests use; "
                "leave it out, and the tests train the first stage"
            )
        first = staged.first_stage(section)
    built = RecipeModel(recipe, section, first, in_features)
    built(0)  # report wrong arguments before anything is trained
    return built


def _is_mil_module(class_path: str) -> bool:
    path, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(path), name, None) if path else None
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, MILModule)
