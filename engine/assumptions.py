"""Recipes under the algorithmic unit tests: a model with its own losses and training protocol.

The tests (`evaluation.mil_assumptions.suite`, docs/mil_assumptions.md) train any module through an
adapter. A recipe's `MILModule` knows more than its network does: which terms a training step has
and what they weigh, what follows an optimizer step, which training comes first. That is what
`RecipeBags` hands on, as `engine.cross_validation.folds` does in a cross-validation. Optimizer,
batch size, length and gradient clipping stay those of the tests, the same for all (A189).
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
from engine.config.recipe import Recipe, overlaid
from engine.config.sections import module_builder
from evaluation.mil_assumptions.bag_models import Bags, PackedModel, pack_bags
from lightning_modules.mil import MILModule
from lightning_modules.staged import StagedMILModule


class RecipeBags(PackedModel):
    """A `MILModule` as the tests see a model: bags in, logits and a training loss out.

    Args:
        module: of a binary task.
        name: what messages call it.
        first: the training that comes before, or None.

    Attributes:
        module: the module itself, whose ``model`` is the network that is called.
    """

    adapter = "recipe"
    remedy = "the recipe's model is called with a BagBatch of vectors; look at its arguments"

    def __init__(self, module: MILModule, name: str, first: RecipeBags | None = None) -> None:
        super().__init__(module.model, name)
        self.module = module  # with all that is trained; the network is what is called
        self._module, self._first = module, first

    def loss(self, bags: Bags, labels: Tensor) -> Tensor:
        """Return the weighted sum of the terms of a training step.

        Args:
            bags: (n_i, D) each.
            labels: (B,) int64, 0 or 1.

        Raises:
            ValueError: a term is not finite.
        """
        batch = pack_bags(bags, labels, self._numbers)
        terms = self._module.training_terms(batch)
        return self._module.total_loss(terms, batch.index.tolist())

    def first_stage(self) -> RecipeBags | None:
        """Return the model to be trained first, in the same way on the same bags."""
        return self._first

    def before_training(self, labels: Tensor, sizes: Tensor) -> None:
        """Take what the first stage has learnt and tell the network of the training bags.

        Args:
            labels: (n,) of the training bags, whose numbers are 0 to n - 1.
            sizes: (n,) their instances.
        """
        if isinstance(self._module, StagedMILModule):
            if self._first is not None:
                self._module.receive(self._first._module.model.state_dict())
            self._module.check_first_stage()
        numbers = torch.arange(len(labels))
        self._module.set_training_bags(numbers.numpy(), labels.numpy(), sizes.numpy())

    def before_step(self, progress: float, numbers: Tensor) -> None:
        """Take the share of the training that is done, and which bags the step has."""
        super().before_step(progress, numbers)
        self._module.progress = progress

    def after_step(self) -> None:
        """Do what the protocol does after an optimizer step."""
        self._module.after_optimizer_step()


@dataclass(frozen=True)
class RecipeModel:
    """Makes `RecipeBags` from a seed; can be pickled, so that seeds run in processes.

    Attributes:
        recipe: file of the recipe, for messages.
        section: its ``model`` with the changes.
        first: ``model`` of the training that comes first, or None.
        in_features: width of an instance.
    """

    recipe: Path
    section: dict[str, Any] = field(repr=False)
    first: dict[str, Any] | None = field(default=None, repr=False)
    in_features: int = 16

    @property
    def choice(self) -> str:
        """Return why the model is called as it is."""
        return f"the recipe {self.recipe}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Return what was read."""
        return (self.recipe,)

    def __call__(self, seed: int) -> RecipeBags:
        """Return a model with new weights that depend on the seed alone."""
        torch.manual_seed(seed)
        module = module_builder(self.section)(2, self.in_features, "binary")
        if self.first is None:
            return RecipeBags(module, self.name)
        first = module_builder(self.first)(2, self.in_features, "binary")
        return RecipeBags(module, self.name, RecipeBags(first, f"the first stage of {self.name}"))

    @property
    def name(self) -> str:
        """What messages call the model."""
        return str(self.recipe)


def recipe_model(
    recipe: str | Path,
    init_args: Mapping[str, Any] | None = None,
    in_features: int = 16,
    *,
    adapter: str | None = None,
) -> RecipeModel:
    """Return what makes the model of a recipe of bags.

    Args:
        recipe: YAML of a `MILModule`, such as those of configs/mil.
        init_args: changes of the model's arguments; a mapping changes what it names of a nested
            model, unless it names another class. The table of docs/METHODS.md has small forms
            (A190).
        in_features: width of an instance.
        adapter: that of a command line; a recipe needs none, so any is refused.

    Raises:
        ValueError: the file or an argument is wrong, the module is not of bags, the recipe names
            weights of a first stage, which are of other features, or an adapter is given.
    """
    recipe = Path(recipe)
    if adapter is not None:
        raise ValueError(f"--adapter {adapter} is for dotted names; {recipe} needs none")
    if not recipe.is_file():
        raise ValueError(f"{recipe}: no such file; --model names a recipe or a class of Python")
    section = Recipe.of(recipe).section("model")
    kind = section.get("class_path")
    if not _is_of_bags(str(kind)):
        raise ValueError(f"{recipe}: {kind} trains no bags; name a recipe as those of configs/mil")
    arguments = section.get("init_args") or {}
    learner = arguments.get("model")
    if isinstance(learner, str):
        learner = {"class_path": learner}
    if not isinstance(learner, dict):
        raise ValueError(f"{recipe}: model.init_args.model names no model of bags")
    changes = dict(init_args or {})
    learner["init_args"] = overlaid(learner.get("init_args") or {}, changes, "", replace=True)
    arguments["model"] = learner
    staged, first = staged_class(section), None
    if staged is not None:
        argument = staged.first_stage_argument
        if arguments.get(argument) is not None:
            raise ValueError(
                f"{recipe}: {argument} names weights that know other features than these tests "
                "have; leave it out, and the tests train the first stage"
            )
        first = staged.first_stage(section)
    built = RecipeModel(recipe, section, first, in_features)
    built(0)  # wrong arguments are told before anything is trained
    return built


def _is_of_bags(class_path: str) -> bool:
    path, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(path), name, None) if path else None
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, MILModule)
