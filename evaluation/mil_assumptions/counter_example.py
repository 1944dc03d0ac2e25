"""Search for counter-examples to monotonicity: instances that lower the score of a bag.

A score s is monotone if s(X with x) >= s(X) for every bag X and every instance x. One pair that
violates this proves that a model counts evidence against the bag; finding none proves nothing. The
search therefore first tries given candidates, and if they all fail, gradient descent of s from the
candidates with the smallest change of s. Modules of float32 are searched in float64 if they can be
converted, so that a finding is not due to rounding (A163).

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

_ROWS_AT_ONCE = 2000  # instances per call
_TIMES_NOISE = 10.0  # factor on the noise of a module that is random in evaluation mode (A168)
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}


@dataclass(frozen=True, slots=True)
class CounterExample:
    """A bag and an added instance that changes its logit and so violates a property.

    Attributes:
        bag: (n, D).
        added: (D,) the added instance.
        before: logit of the bag.
        after: logit of the bag with the added instance.
    """

    bag: Tensor
    added: Tensor
    before: float
    after: float

    def describe(self) -> str:
        """Return the example in one line; long instances are shortened."""
        count = len(self.bag)
        bag = f"a bag of {count} instance{'' if count == 1 else 's'}"
        added = f"with {_row(self.added)} it has {self.after:.4g}"
        return f"{bag} has the logit {self.before:.4g}; {added}"

    def record(self) -> dict[str, Any]:
        """Return the example for JSON, with the whole bag."""
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
    """Search for an instance that lowers the logit of a bag when added to it.

    The model is called in evaluation mode; its mode and dtype are restored afterwards.

    Args:
        model: a model, trained or not.
        bags: B bags (n_i, D).
        candidates: (C, D) instances; each is added to each bag.
        refined: number of pairs from which gradient descent starts if no candidate succeeds.
        steps: gradient steps per pair.

    Returns:
        The candidate that lowers a logit most; if there is none, the instance found by gradient
        descent that lowers a logit most; None if neither exists.
    """
    with evaluated(model, bags[0]) as dtype:
        rows = [bag.to(dtype) for bag in bags]
        given, candidates = candidates, candidates.to(dtype)
        before = scores(model, rows)
        change = _changes(model, rows, candidates, before)  # (B, C)
        again = (scores(model, rows) - before).abs().max()
        limit = tolerance(before) + _TIMES_NOISE * again
        # Infinite and NaN values are no evidence.
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
    """Return the largest change of each logit that rounding can cause, by size and dtype (A163).

    >>> (tolerance(torch.tensor([-20.0, 0.5], dtype=torch.float64)) * 1e6).round().tolist()
    [20.0, 1.0]
    """
    return _TOLERANCE.get(logits.dtype, 1e-2) * logits.abs().clamp(min=1.0)


def scores(model: BagModel, bags: Sequence[Tensor]) -> Tensor:
    """Return (B,) logits without gradients, computed in groups of bags of similar size."""
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
    """Put a model in evaluation mode and, if possible, in float64; restore both afterwards.

    Args:
        model: the model.
        bag: (n, D) bag for trying float64.

    Yields:
        The dtype of the features for the model.
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
            module.float()  # exact, because the values were float32
        module.train(training)


def _dtypes(module: nn.Module) -> set[torch.dtype]:
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


def _works_in_double(model: BagModel, bag: Tensor) -> bool:
    """Convert a module to float64, and back if it then fails."""
    model.module.double()
    try:
        scores(model, [bag.double()])
    except ValueError:  # it always computes in float32, or has tensors that are not converted
        model.module.float()
        return False
    return True


def _changes(model: BagModel, bags: Sequence[Tensor], added: Tensor, before: Tensor) -> Tensor:
    """Return (B, C), the change of the logit of each bag by each candidate."""
    larger = [torch.cat([bag, row.unsqueeze(0)]) for bag in bags for row in added]
    return scores(model, larger).view(len(bags), len(added)) - before.unsqueeze(1)


def _descend(
    model: BagModel, bags: Sequence[Tensor], starts: Tensor, before: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Minimise logits over an added instance by gradient descent.

    The length of a step is a tenth of the length of the instance, but at least a tenth of the
    typical length of a normal instance, so that large instances move far enough.

    Args:
        model: a model in evaluation mode.
        bags: P bags.
        starts: (P, D), one initial instance per bag.
        before: (P,) logits of the bags without the instance.
        steps: number of steps.

    Returns:
        (P, D) the best instances found, and (P,) the changes of the logits by them.
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
        better = change < lowest  # False for NaN
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
    """Return a description of an instance: its first features, mean and standard deviation."""
    first = ", ".join(f"{value:.3g}" for value in values[:4].tolist())
    more = ", ..." if len(values) > 4 else ""
    spread = float(values.std(correction=0))
    return f"a further instance ({first}{more}; mean {float(values.mean()):.3g}, std {spread:.3g})"
