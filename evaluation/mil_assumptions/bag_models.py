"""Any aggregator of bags as the one thing that the algorithmic unit tests ask: bags in, logits out.

Three ways in which modules take bags, by the name of their adapter:

    batch    module(X, mask)   X (B, N, D) padded with 0, mask (B, N) True = real -> (B,) or (B, 1)
    bag      module(X)         X (N, D), one bag -> one logit of any shape
    packed   module(BagBatch)  -> MILOutput with logits (B, 1), as all models of models/mil

Of a tuple the first item counts. Logits are log-odds of class 1. What a module does wrong with them
is a ValueError that names the module, what it was given, what it returned and what to do.

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
    """What the tests see of any aggregator.

    Attributes:
        adapter: the name that tables tell.
        module: for modes, parameters and dtype.
        permutation_invariant: what its class declares about the order of instances, None if it
            says nothing.
    """

    adapter: str
    module: nn.Module
    permutation_invariant: bool | None

    def logits(self, bags: Bags) -> Tensor:
        """Return (B,) log-odds of class 1, with gradients, for bags (n_i, D) of any sizes."""
        ...

    def loss(self, bags: Bags, labels: Tensor) -> Tensor:
        """Return the scalar to train by; labels (B,) int64 are 0 or 1."""
        ...

    def instance_scores(self, bags: Bags) -> tuple[Tensor, Tensor] | None:
        """Return logits (B,) and the logits of all instances (N, 1), None if the module has none.

        The second are the very tensor that the first are computed from, where they are: what can be
        differentiated by it.
        """
        ...

    def first_stage(self) -> BagModel | None:
        """Return what has to be trained before, in the same way on the same bags, or None."""
        ...

    def before_training(self, labels: Tensor, sizes: Tensor) -> None:
        """Take label and instances of each training bag, (n,) both, and the first stage's end."""
        ...

    def before_step(self, progress: float, numbers: Tensor) -> None:
        """Take the share of the training that is done and which training bags the step has.

        Args:
            progress: in [0, 1).
            numbers: (B,) int64, places of the step's bags among those of ``before_training``.
        """
        ...

    def after_step(self) -> None:
        """Do what follows a step of the optimizer."""
        ...


BuildModel = Callable[[int], BagModel]  # seed -> a model with new weights


class ModuleModel:
    """What the adapters have in common; subclasses say how a module is called.

    Args:
        module: the aggregator.
        name: what messages call it.

    Attributes:
        network: what is called, the module or its part.
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
        """Return None: which of a plain module's results are scores of instances is unknown."""
        del bags
        return None

    def first_stage(self) -> BagModel | None:
        """Return None: there is none."""
        return None

    def before_training(self, labels: Tensor, sizes: Tensor) -> None:
        """Do nothing."""

    def before_step(self, progress: float, numbers: Tensor) -> None:
        """Do nothing."""

    def after_step(self) -> None:
        """Do nothing."""

    def call(self, given: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the module answers.

        Args:
            given: the arguments in words.
            *args: of the module.
            **kwargs: of the module.

        Raises:
            ValueError: the module raises anything; it is the user's, so anything may come.
        """
        try:
            return self.network(*args, **kwargs)
        except Exception as error:
            raise ValueError(
                f"{self.name} raised {type(error).__name__} when the adapter {self.adapter} called "
                f"it with {given}: {_first_line(error)}; {self.remedy}"
            ) from error

    def one_logit(self, answer: Any, given: str, bags: int) -> Tensor:
        """Return a module's answer as (bags,), refusing any other number of values."""
        first = answer[0] if isinstance(answer, tuple | list) and len(answer) else answer
        what = f"{self.name} returned {{}} when the adapter {self.adapter} called it with {given}"
        if not isinstance(first, Tensor) or not first.is_floating_point():
            kind = str(first.dtype) if isinstance(first, Tensor) else type(first).__name__
            raise ValueError(f"{what.format(kind)}; logits are a tensor of floats; {self.remedy}")
        # One bag has one value of any shape: some modules squeeze it.
        fits = first.numel() == 1 if bags == 1 else tuple(first.shape) in {(bags,), (bags, 1)}
        if not fits:
            expected = "one logit" if bags == 1 else f"({bags},) or ({bags}, 1)"
            raise ValueError(
                f"{what.format(f'shape {tuple(first.shape)}')}, expected {expected}: the log-odds "
                f"of class 1 of each bag; {self.remedy}"
            )
        return first.reshape(bags)


class PaddedModel(ModuleModel):
    """A module of padded batches: (B, N, D) and, where its ``forward`` takes one, a mask (B, N).

    Args:
        module: the aggregator.
        name: what messages call it.
        padding: standard deviation of normal noise in the rows that are no instances; 0 for zeros.

    Attributes:
        takes_mask: whether ``forward`` has a place for the mask: an argument ``mask``, or a second
            one without a default.
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
        """Return the same module, padded with noise of a standard deviation."""
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
    """A module of one bag (N, D), called for each bag of a step in turn."""

    adapter = "bag"
    remedy = (
        "it calls module(X) with the instances X (N, D) of one bag and needs one logit; arguments "
        "of the constructor go in --init-args, and --adapter batch calls module(X, mask), or "
        "module(X) where forward takes no mask, with padded bags (B, N, D)"
    )

    def logits(self, bags: Bags) -> Tensor:
        """Return (B,) log-odds of class 1."""
        each = []
        for bag in bags:
            given = f"X {tuple(bag.shape)}"
            answer = self.call(given, bag.clone())  # it may write into what it gets
            each.append(self.one_logit(answer, given, 1))
        return torch.cat(each)


class PackedModel(ModuleModel):
    """A module of a `BagBatch`, with its own loss where it has ``losses``."""

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
        """Return the sum of the module's loss terms; of a module without, cross-entropy."""
        batch = pack_bags(bags, labels, self._numbers)
        output, logits = self._answer(batch)
        losses = getattr(self.module, "losses", None)
        if losses is None:
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        terms: dict[str, Tensor] = losses(output, batch)
        return torch.stack([*terms.values()]).sum()

    def instance_scores(self, bags: Bags) -> tuple[Tensor, Tensor] | None:
        """Return logits (B,) and instance logits (N, 1), None where there is not one each."""
        output, logits = self._answer(pack_bags(bags))
        scores = getattr(output, "instance_logits", None)
        if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[1] != 1:
            return None
        return logits, scores

    def before_training(self, labels: Tensor, sizes: Tensor) -> None:
        """Tell a model that wants to know it."""
        see = getattr(self.module, "set_training_bags", None)
        if see is not None:
            see(torch.arange(len(labels)), labels, sizes)

    def before_step(self, progress: float, numbers: Tensor) -> None:
        """Number the bags of the step, for models that keep something of each."""
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
    """Say how a module's ``forward`` takes a mask of padded rows, from its signature."""
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
    """Return bags as a batch; without labels or numbers all have label or number 0.

    Some models draw by a bag's number, which is its own in a data set. With one number for all,
    what a bag gets depends on no place in a batch (A165).
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
    """Return what an error says, without the traces that some libraries add."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
