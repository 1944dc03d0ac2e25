"""Adapters that give any aggregator of bags the interface of the algorithmic unit tests.

Modules take bags in one of three ways, by the name of the adapter:

    batch    module(X, mask)   X (B, N, D) padded with 0, mask (B, N) True = real -> (B,) or (B, 1)
    bag      module(X)         X (N, D), one bag -> one logit of any shape
    packed   module(BagBatch)  -> MILOutput with logits (B, 1), as all models of models/mil

If a module returns a tuple, its first item is used. Logits are log-odds of class 1. Faults of a
module raise a ValueError that names the module, its input, its output and a remedy.

Letters: N instances of a bag or of all bags, B bags, D features of an instance.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from structures import BagBatch

AdapterName = Literal["batch", "bag", "packed"]
Bags = Sequence[Tensor] | Tensor  # B tensors (n_i, D), or (B, N, D) for bags of one size


class BagModel(Protocol):
    """Interface of an aggregator for the tests.

    Attributes:
        adapter: name of the adapter, for tables.
        module: the module, for modes, parameters and dtype.
        permutation_invariant: whether its class declares that the order of instances does not
            matter; None if it declares nothing.
    """

    adapter: str
    module: nn.Module
    permutation_invariant: bool | None

    def logits(self, bags: Bags) -> Tensor:
        """Return (B,) log-odds of class 1, with gradients, for bags (n_i, D) of any sizes."""
        ...

    def loss(self, bags: Bags, labels: Tensor) -> Tensor:
        """Return the scalar training loss; labels (B,) int64 are 0 or 1."""
        ...

    def instance_scores(self, bags: Bags) -> tuple[Tensor, Tensor] | None:
        """Return logits (B,) and the logits of all instances (N, 1), None if the module has none.

        If the bag logits are computed from the instance logits, the second tensor is part of their
        autograd graph, so that they can be differentiated by it.
        """
        ...

    def first_stage(self) -> BagModel | None:
        """Return the model to train first, in the same way on the same bags, or None."""
        ...

    def before_training(self, labels: Tensor, sizes: Tensor) -> None:
        """Prepare for training, with the label and size of each training bag, (n,) each."""
        ...

    def before_step(self, progress: float, numbers: Tensor) -> None:
        """Prepare for a training step.

        Args:
            progress: finished share of the training, in [0, 1).
            numbers: (B,) int64, positions of the bags of the step in the arguments of
                ``before_training``.
        """
        ...

    def after_step(self) -> None:
        """Run after each step of the optimizer."""
        ...


BuildModel = Callable[[int], BagModel]  # seed -> a model with new weights


class ModuleModel:
    """Base class of the adapters; subclasses define how a module is called.

    Args:
        module: the aggregator.
        name: name of the module in messages.

    Attributes:
        network: the module that is called, or the called part of it.
    """

    adapter: str
    remedy: str

    def __init__(self, module: nn.Module, name: str = "") -> None:
        self.module = self.network = module
        self.name = name or type(module).__name__
        self.permutation_invariant: bool | None = getattr(module, "permutation_invariant", None)

    def logits(self, bags: Bags) -> Tensor:
        """Return (B,) log-odds of class 1."""
        raise NotImplementedError

    def loss(self, bags: Bags, labels: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of the logits."""
        logits = self.logits(bags)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    def instance_scores(self, bags: Bags) -> tuple[Tensor, Tensor] | None:
        """Return None, because it is unknown which output of a module has scores of instances."""
        del bags
        return None

    def first_stage(self) -> BagModel | None:
        """Return None, because there is no first stage."""
        return None

    def before_training(self, labels: Tensor, sizes: Tensor) -> None:
        """Do nothing."""

    def before_step(self, progress: float, numbers: Tensor) -> None:
        """Do nothing."""

    def after_step(self) -> None:
        """Do nothing."""

    def call(self, given: str, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the module.

        Args:
            given: description of the arguments, for messages.
            *args: arguments of the module.
            **kwargs: arguments of the module.

        Raises:
            ValueError: the module, which may be code of the user, raises any error.
        """
        try:
            return self.network(*args, **kwargs)
        except Exception as error:
            raise ValueError(
                f"{self.name} raised {type(error).__name__} when the adapter {self.adapter} called "
                f"it with {given}: {_first_line(error)}; {self.remedy}"
            ) from error

    def one_logit(self, answer: Any, given: str, bags: int) -> Tensor:
        """Return the output of a module as (bags,); any other number of values is an error."""
        first = answer[0] if isinstance(answer, tuple | list) and len(answer) else answer
        what = f"{self.name} returned {{}} when the adapter {self.adapter} called it with {given}"
        if not isinstance(first, Tensor) or not first.is_floating_point():
            kind = str(first.dtype) if isinstance(first, Tensor) else type(first).__name__
            raise ValueError(f"{what.format(kind)}; logits are a tensor of floats; {self.remedy}")
        # For one bag, a single value of any shape is accepted, as some modules squeeze it.
        fits = first.numel() == 1 if bags == 1 else tuple(first.shape) in {(bags,), (bags, 1)}
        if not fits:
            expected = "one logit" if bags == 1 else f"({bags},) or ({bags}, 1)"
            raise ValueError(
                f"{what.format(f'shape {tuple(first.shape)}')}, expected {expected}: the log-odds "
                f"of class 1 of each bag; {self.remedy}"
            )
        return first.reshape(bags)


class PaddedModel(ModuleModel):
    """Adapter for modules of padded batches (B, N, D) and, if accepted, a mask (B, N).

    Args:
        module: the aggregator.
        name: name of the module in messages.
        padding: standard deviation of the normal noise in padded rows; 0 for zeros.

    Attributes:
        takes_mask: whether ``forward`` accepts a mask: as an argument ``mask``, or as a second
            argument without a default.
    """

    adapter = "batch"
    remedy = (
        "it calls module(X, mask) with X (B, N, D) and mask (B, N), True = real, and needs (B,) or "
        "(B, 1); arguments of the constructor go in --init-args, and --adapter bag calls module(X) "
        "with one bag (N, D)"
    )

    def __init__(self, module: nn.Module, name: str = "", padding: float = 0.0) -> None:
        super().__init__(module, name)
        self.padding = padding
        self._place = mask_place(module)
        self.takes_mask = self._place != "none"

    def with_padding(self, noise: float) -> PaddedModel:
        """Return an adapter of the same module that pads with noise of a standard deviation."""
        return PaddedModel(self.module, self.name, noise)

    def logits(self, bags: Bags) -> Tensor:
        """Return (B,) log-odds of class 1."""
        features, mask = self._padded(bags)
        given = f"X {tuple(features.shape)}"
        answer: Any
        if self._place == "none":
            answer = self.call(given, features)
        else:
            given += f" and mask {tuple(mask.shape)}"
            by_name = self._place == "keyword"
            args, kwargs = ((), {"mask": mask}) if by_name else ((mask,), {})
            answer = self.call(given, features, *args, **kwargs)
        return self.one_logit(answer, given, len(bags))

    def _padded(self, bags: Bags) -> tuple[Tensor, Tensor]:
        if isinstance(bags, Tensor):
            return bags.clone(), torch.ones(bags.shape[:2], dtype=torch.bool)
        sizes = torch.tensor([len(bag) for bag in bags])
        mask = torch.arange(int(sizes.max())) < sizes.unsqueeze(1)
        features = nn.utils.rnn.pad_sequence(list(bags), batch_first=True)
        if self.padding:
            generator = torch.Generator().manual_seed(0)
            noise = self.padding * torch.randn(features.shape, generator=generator)
            features = torch.where(mask.unsqueeze(2), features, noise.to(features.dtype))
        return features, mask


class SingleBagModel(ModuleModel):
    """Adapter for modules of one bag (N, D), called for each bag of a step in turn."""

    adapter = "bag"
    remedy = (
        "it calls module(X) with the instances X (N, D) of one bag and needs one logit; arguments "
        "of the constructor go in --init-args, and --adapter batch calls module(X, mask), or "
        "module(X) if forward takes no mask, with padded bags (B, N, D)"
    )

    def logits(self, bags: Bags) -> Tensor:
        """Return (B,) log-odds of class 1."""
        each = []
        for bag in bags:
            given = f"X {tuple(bag.shape)}"
            answer = self.call(given, bag.clone())  # the module may write to its input
            each.append(self.one_logit(answer, given, 1))
        return torch.cat(each)


class PackedModel(ModuleModel):
    """Adapter for modules of a `BagBatch`; uses the loss of the module if it has ``losses``."""

    adapter = "packed"
    remedy = (
        "it calls module(BagBatch) and needs a MILOutput with logits (B, 1), as the models of "
        "models/mil return for task binary; --adapter batch or bag calls other modules"
    )

    def __init__(self, module: nn.Module, name: str = "") -> None:
        super().__init__(module, name)
        self._numbers: Tensor | None = None

    def logits(self, bags: Bags) -> Tensor:
        """Return (B,) log-odds of class 1."""
        return self._answer(pack_bags(bags))[1]

    def loss(self, bags: Bags, labels: Tensor) -> Tensor:
        """Return the sum of the loss terms of the module, or cross-entropy if it has none."""
        batch = pack_bags(bags, labels, self._numbers)
        output, logits = self._answer(batch)
        losses = getattr(self.module, "losses", None)
        if losses is None:
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        terms: dict[str, Tensor] = losses(output, batch)
        return torch.stack([*terms.values()]).sum()

    def instance_scores(self, bags: Bags) -> tuple[Tensor, Tensor] | None:
        """Return logits (B,) and instance logits (N, 1), None without one logit per instance."""
        output, logits = self._answer(pack_bags(bags))
        scores = getattr(output, "instance_logits", None)
        if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[1] != 1:
            return None
        return logits, scores

    def before_training(self, labels: Tensor, sizes: Tensor) -> None:
        """Pass labels and sizes to a model that has ``set_training_bags``."""
        see = getattr(self.module, "set_training_bags", None)
        if see is not None:
            see(torch.arange(len(labels)), labels, sizes)

    def before_step(self, progress: float, numbers: Tensor) -> None:
        """Store the numbers of the bags of the step, for models with state per bag."""
        self._numbers = numbers

    def _answer(self, batch: BagBatch) -> tuple[Any, Tensor]:
        given = f"a BagBatch of {len(batch)} bags, features {tuple(batch.features.shape)}"
        output = self.call(given, batch)
        if not isinstance(getattr(output, "logits", None), Tensor):
            kind = type(output).__name__
            raise ValueError(
                f"{self.name} returned {kind} when the adapter packed called it with {given}; "
                f"{self.remedy}"
            )
        return output, self.one_logit(output.logits, given, len(batch))


def mask_place(module: nn.Module) -> Literal["keyword", "second", "none"]:
    """Return how the ``forward`` of a module takes a mask of padded rows, by its signature."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    if any(p.name == "mask" and p.kind is not p.POSITIONAL_ONLY for p in parameters):
        return "keyword"
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(places) > 1 and (
        places[1].default is inspect.Parameter.empty or places[1].name == "mask"
    ):
        return "second"
    return "none"


def pack_bags(bags: Bags, labels: Tensor | None = None, numbers: Tensor | None = None) -> BagBatch:
    """Return bags as a batch; without labels or numbers, all bags have label or number 0.

    Some models draw random numbers by the number of a bag in its data set. With the same number for
    all bags, the draws do not depend on the position in a batch (A165).
    """
    sizes = torch.tensor([len(bag) for bag in bags])
    features = bags.flatten(0, 1) if isinstance(bags, Tensor) else torch.cat(list(bags))
    return BagBatch(
        features=features,
        offsets=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        labels=torch.zeros(len(sizes), dtype=torch.int64) if labels is None else labels,
        index=torch.zeros_like(sizes) if numbers is None else numbers,
    )


def _first_line(error: Exception) -> str:
    """Return the first line of an error message, without traces that some libraries add."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
