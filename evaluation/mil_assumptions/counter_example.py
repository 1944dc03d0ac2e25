"""Looking for an instance that argues a bag down: counter-examples to monotonicity.

A score s is monotone if s(X with x) >= s(X) for every bag X and every instance x. One pair that
breaks this proves that a model weighs evidence against the bag; that none is found proves nothing,
so the search tries what is likely to work: given candidates first, and where they all fail, descent
of the gradient of s from the candidates that did least harm to its chances. Modules whose numbers
are float32 are searched in float64 where they can be converted, so that what is found is no
rounding (A163).

Letters: B bags, C candidates, D features of an instance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.mil_assumptions.bag_models import BagModel

_ROWS_AT_ONCE = 2000  # instances of a call
_TIMES_NOISE = 10.0  # of a module that draws random numbers in evaluation (A168)
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}


@dataclass(frozen=True, slots=True)
class CounterExample:
    """A bag and an instance that changes its logit in a way that a property forbids.

    Attributes:
        bag: (n, D).
        added: (D,) the further instance.
        before: logit of the bag.
        after: logit of the bag with the further instance.
    """

    bag: Tensor
    added: Tensor
    before: float
    after: float

    def describe(self) -> str:
        """Return the example in one line; only ends of long rows are shown."""
        count = len(self.bag)
        bag = f"a bag of {count} instance{'' if count == 1 else 's'}"
        added = f"with {_row(self.added)} it has {self.after:.4g}"
        return f"{bag} has the logit {self.before:.4g}; {added}"

    def record(self) -> dict[str, Any]:
        """Return it for JSON, with the whole bag."""
        return {
            "bag": self.bag.tolist(),
            "added": self.added.tolist(),
            "before": self.before,
            "after": self.after,
        }


def search_counter_example(
    model: BagModel,
    bags: Sequence[Tensor] | Tensor,
    candidates: Tensor,
    *,
    refined: int = 8,
    steps: int = 25,
) -> CounterExample | None:
    """Look for an instance that lowers the logit of a bag that it is added to.

    The model is asked in evaluation mode and left in the mode and the dtype it had.

    Args:
        model: trained or not.
        bags: B bags (n_i, D) to add to.
        candidates: (C, D) instances; each is added to each bag.
        refined: pairs from which the gradient is followed, where no candidate does it.
        steps: of the gradient each.

    Returns:
        The candidate that lowers a logit most; where none does, the instance that the gradient led
        to and that lowers one most; None if neither is found.
    """
    with evaluated(model, bags[0]) as dtype:
        rows = [bag.to(dtype) for bag in bags]
        given, candidates = candidates, candidates.to(dtype)
        before = scores(model, rows)
        change = _changes(model, rows, candidates, before)  # (B, C)
        again = (scores(model, rows) - before).abs().max()
        limit = tolerance(before) + _TIMES_NOISE * again
        # What is infinite or not a number argues for nothing.
        change = change.where(change.isfinite(), torch.inf)
        drop = change + limit.unsqueeze(1)
        if bool((drop < 0).any()):
            bag, chosen = divmod(int(drop.argmin()), len(candidates))
            return _example(bags[bag], given[chosen], before[bag], change[bag, chosen])
        best = change.flatten().argsort(stable=True)[:refined]
        pairs = [divmod(int(place), len(candidates)) for place in best]
        starts = torch.stack([candidates[chosen] for _, chosen in pairs])
        numbers = torch.tensor([bag for bag, _ in pairs])
        chosen_rows = [rows[bag] for bag, _ in pairs]
        found, lowest = _descend(model, chosen_rows, starts, before[numbers], steps)
        drop = lowest + limit[numbers]
        if not bool((drop < 0).any()):
            return None
        pair = int(drop.argmin())
        whole = bags[int(numbers[pair])]
        return _example(whole, found[pair].to(whole.dtype), before[numbers[pair]], lowest[pair])


def tolerance(logits: Tensor) -> Tensor:
    """Return by how much each logit may change by rounding alone, from its size and dtype (A163).

    >>> (tolerance(torch.tensor([-20.0, 0.5], dtype=torch.float64)) * 1e6).round().tolist()
    [20.0, 1.0]
    """
    return _TOLERANCE.get(logits.dtype, 1e-2) * logits.abs().clamp(min=1.0)


def scores(model: BagModel, bags: Sequence[Tensor]) -> Tensor:
    """Return (B,) logits without gradients, for bags of about one size at a time."""
    order = sorted(range(len(bags)), key=lambda place: len(bags[place]))
    parts: list[Tensor] = []
    start, count = 0, 0
    with torch.no_grad():
        for end, place in enumerate(order, 1):
            count += len(bags[place])
            if count >= _ROWS_AT_ONCE or end == len(order):
                parts.append(model.logits([bags[b] for b in order[start:end]]))
                start, count = end, 0
    places = torch.tensor(order).argsort()
    return torch.cat(parts)[places]


@contextlib.contextmanager
def evaluated(model: BagModel, bag: Tensor) -> Iterator[torch.dtype]:
    """Put a model in evaluation mode, in float64 where it can be; both are undone afterwards.

    Args:
        model: any.
        bag: (n, D) to try it with.

    Yields:
        The dtype that the model's features need.
    """
    module = model.module
    training = module.training
    module.eval()
    dtypes = _dtypes(module)
    double = dtypes <= {torch.float32} and _works_in_double(model, bag)
    try:
        yield torch.float64 if double or dtypes == {torch.float64} else torch.float32
    finally:
        if double:
            module.float()  # exact: they were float32
        module.train(training)


def _dtypes(module: nn.Module) -> set[torch.dtype]:
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


def _works_in_double(model: BagModel, bag: Tensor) -> bool:
    """Convert a module to float64, and back if it cannot be called any more."""
    model.module.double()
    try:
        scores(model, [bag.double()])
    except ValueError:  # it computes in float32 whatever it is given, or keeps tensors aside
        model.module.float()
        return False
    return True


def _changes(model: BagModel, bags: Sequence[Tensor], added: Tensor, before: Tensor) -> Tensor:
    """Return (B, C), by how much each candidate changes the logit of each bag."""
    larger = [torch.cat([bag, row.unsqueeze(0)]) for bag in bags for row in added]
    return scores(model, larger).view(len(bags), len(added)) - before.unsqueeze(1)


def _descend(
    model: BagModel, bags: Sequence[Tensor], starts: Tensor, before: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Follow the gradient of the logits by an added instance downwards.

    A step is a tenth of the instance's length, so that large instances get anywhere, and of at
    least a tenth of that of a normal one.

    Args:
        model: in evaluation mode.
        bags: P bags.
        starts: (P, D) an instance each.
        before: (P,) logits of the bags alone.
        steps: how many.

    Returns:
        (P, D) the best instances on the way and (P,) by how much they change the logits.
    """
    added, best = starts, starts
    lowest = torch.full_like(before, torch.inf)
    smallest = starts.shape[1] ** 0.5
    for _ in range(steps + 1):
        added = added.detach().requires_grad_()
        larger = [torch.cat([bag, row.unsqueeze(0)]) for bag, row in zip(bags, added, strict=True)]
        with torch.enable_grad():
            logits = model.logits(larger)
            if not logits.requires_grad:
                return best, lowest
            (slope,) = torch.autograd.grad(logits.sum(), added, allow_unused=True)
        change = logits.detach() - before
        better = change < lowest  # not where it is no number
        lowest = torch.where(better, change, lowest)
        best = torch.where(better.unsqueeze(1), added.detach(), best)
        if slope is None or not bool(slope.nan_to_num_(0.0, 0.0, 0.0).any()):
            break
        length = added.detach().norm(dim=1, keepdim=True).clamp(min=smallest)
        unit = slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-30)
        added = added - 0.1 * length * unit
    return best, lowest


def _example(bag: Tensor, added: Tensor, before: Tensor, change: Tensor) -> CounterExample:
    return CounterExample(bag, added, float(before), float(before + change))


def _row(values: Tensor) -> str:
    """Return an instance in words: its mean and spread, and its first features."""
    first = ", ".join(f"{value:.3g}" for value in values[:4].tolist())
    more = ", ..." if len(values) > 4 else ""
    spread = float(values.std(correction=0))
    return f"a further instance ({first}{more}; mean {float(values.mean()):.3g}, std {spread:.3g})"
