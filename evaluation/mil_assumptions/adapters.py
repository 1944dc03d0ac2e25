"""Import of aggregators by their dotted name, with a check on two bags.

`import_model` loads code of the user for the algorithmic unit tests, so it reports every fault
before any training: in the name, the arguments of the constructor, the type of the module and its
output for bags. The ways to call modules are in `evaluation.mil_assumptions.bag_models`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from evaluation.mil_assumptions.bag_models import (
    AdapterName,
    BagModel,
    Bags,
    BuildModel,
    ModuleModel,
    PackedModel,
    PaddedModel,
    SingleBagModel,
    mask_place,
)
from structures.own_functions import searched

__all__ = [
    "AdapterName",
    "BagModel",
    "Bags",
    "BuildModel",
    "NamedModel",
    "PaddedModel",
    "adapt",
    "import_model",
]

_ADAPTERS: dict[str, type[ModuleModel]] = {
    "batch": PaddedModel,
    "bag": SingleBagModel,
    "packed": PackedModel,
}
_OURS = "models."
_TRIED = (2, 45)  # bags and instances, as in the tests


def adapt(module: nn.Module, adapter: AdapterName, name: str = "") -> BagModel:
    """Wrap a module in an adapter, through which the tests call it.

    Args:
        module: the aggregator.
        adapter: name of the adapter.
        name: name of the module in messages; its class if empty.

    Raises:
        ValueError: the aggregator is not a module, or the adapter is unknown.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"{name or 'the model'} is a {type(module).__name__}, not a torch.nn.Module; give the "
            "class of a module, or a function that returns a module"
        )
    if adapter not in _ADAPTERS:
        raise ValueError(f"adapter is one of {get_args(AdapterName)}, got {adapter!r}")
    return _ADAPTERS[adapter](module, name)


@dataclass(frozen=True)
class NamedModel:
    """Picklable function that builds an aggregator by its dotted name.

    Attributes:
        name: dotted name.
        adapter: name of the adapter.
        init_args: arguments of the constructor.
        in_features: D, an argument of the models of this repository.
        choice: reason for the choice of the adapter.
    """

    name: str
    adapter: AdapterName
    init_args: Mapping[str, Any] = field(default_factory=dict)
    in_features: int = 16
    choice: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that were read: none, since the user gives no file."""
        return ()

    def __call__(self, seed: int) -> BagModel:
        """Return the model with the weights of a seed.

        Raises:
            ValueError: the model cannot be built.
        """
        return adapt(
            _module(self.name, self.init_args, self.in_features, seed), self.adapter, self.name
        )


def import_model(
    name: str,
    init_args: Mapping[str, Any] | None = None,
    adapter: AdapterName | None = None,
    in_features: int = 16,
) -> NamedModel:
    """Return a function that builds the aggregator of a dotted name, after a check on two bags.

    Names under ``models.`` are models of this repository: they get ``in_features``, two classes
    and the task ``binary`` in addition to the given arguments, which may contain
    ``{class_path, init_args}`` as in recipes. Other classes get only the given arguments.

    Args:
        name: dotted name of the class of a module, or of a function that returns a module.
        init_args: arguments of the constructor.
        adapter: name of the adapter. None: ``packed`` for names under ``models.``; else ``batch``
            if ``forward`` accepts a mask, and ``bag`` if it does not.
        in_features: D.

    Raises:
        ValueError: the aggregator cannot be imported, built or called, is not a module, or does not
            return one finite logit per bag that depends on its parameters (if it has any).
    """
    given = dict(init_args or {})
    module = _module(name, given, in_features, 0)
    choice = "as requested"
    if adapter is None:
        adapter, choice = _chosen(name, module)
    model = adapt(module, adapter, name)
    _try(model, name, in_features)
    return NamedModel(name, adapter, given, in_features, choice)


def _chosen(name: str, module: nn.Module) -> tuple[AdapterName, str]:
    others = "--adapter chooses another"
    if name.startswith(_OURS):
        return "packed", f"a name under {_OURS}; {others}"
    place = mask_place(module)
    if place == "keyword":
        return "batch", f"its forward accepts a mask; {others}"
    if place == "second":
        second = list(inspect.signature(module.forward).parameters)[1]
        return "batch", f"its forward gets the mask as its second argument, {second}; {others}"
    return "bag", f"its forward accepts no mask; {others}"


def _try(model: BagModel, name: str, in_features: int) -> None:
    """Check that a model returns finite logits and a loss that can be trained."""
    count, size = _TRIED
    generator = torch.Generator().manual_seed(0)
    bags = torch.randn(count, size, in_features, generator=generator)
    labels = torch.arange(count) % 2
    model.module.eval()
    with torch.no_grad():
        logits = model.logits(bags)
    if not bool(logits.isfinite().all()):
        raise ValueError(
            f"{name}: logits {logits.tolist()} for {count} bags of {size} normal instances are not "
            "finite; does its mask mean True = real?"
        )
    model.module.train()
    model.before_training(labels, torch.full((count,), size))
    model.before_step(0.0, torch.arange(count))
    trainable = any(p.requires_grad for p in model.module.parameters())
    if not model.loss(bags, labels).requires_grad and trainable:
        raise ValueError(
            f"{name}: its loss depends on no parameter, so it cannot be trained; does it detach "
            "what it returns?"
        )


def _module(name: str, init_args: Mapping[str, Any], in_features: int, seed: int) -> nn.Module:
    """Build the module of a name with the weights of a seed."""
    maker = _maker(name)
    torch.manual_seed(seed)
    try:
        if name.startswith(_OURS):
            facts = {"in_features": in_features, "num_classes": 2, "task": "binary"}
            module = _parsed(maker, {**facts, **init_args})
        else:
            module = maker(**init_args)
    except (Exception, SystemExit) as error:  # the user's class may raise anything
        given = f" with {dict(init_args)}" if init_args else " without arguments"
        message = " ".join(str(error).split())
        raise ValueError(
            f"{name} cannot be built{given}: {type(error).__name__}: {message}; give the arguments "
            "of its constructor as JSON, e.g. --init-args '{\"width\": 64}'"
        ) from error
    if not isinstance(module, nn.Module):
        adapt(module, "bag", name)  # raises the error
    return module  # type: ignore[no-any-return]


def _parsed(maker: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Build a model from arguments that may name classes, as in a recipe."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(maker, "init_args")
    return parser.instantiate_classes(parser.parse_object({"init_args": dict(arguments)})).init_args


def _maker(name: str) -> Callable[..., Any]:
    """Import the class or function that builds a model.

    The working folder is searched last.
    """
    path, attribute = searched(name, "Class")
    try:
        module = importlib.import_module(path)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and (path == missing or path.startswith(f"{missing}.")):
            remedy = "install it, or run from the folder that contains it"
            if name.startswith(_OURS):
                remedy = f"names under {_OURS} are models of this repository"
            raise ValueError(f"{name}: there is no module {missing!r}; {remedy}") from None
        raise ValueError(
            f"{name}: importing {path} raised {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        offered = sorted(
            n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, nn.Module)
        )
        raise ValueError(
            f"{name}: {path} has no class or function {attribute!r}"
            + (f"; it has the modules {', '.join(offered)}" if offered else "")
        )
    return found  # type: ignore[no-any-return]
