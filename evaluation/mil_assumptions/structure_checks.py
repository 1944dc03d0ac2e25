"""Structural tests of a single network; see `evaluation.mil_assumptions.structure`.

Every check takes a model in evaluation mode with bags of its dtype and returns a `Property`.

Letters: N instances of a bag, B bags, P pairs, D features of an instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from evaluation.mil_assumptions.bag_models import BagModel, PaddedModel
from evaluation.mil_assumptions.counter_example import (
    CounterExample,
    scores,
    search_counter_example,
    tolerance,
)

Status = Literal["holds", "fails", "n/a"]

_BACKGROUND = 0.7  # share of instances
_KINDS = ((-10.0, 0.1), (-2.0, 0.1), (2.0, 0.1), (3.0, 0.1), (0.0, 3.0), (1.0, 1.0))  # mean, std
_SAME = 10.0  # factor on the rounding error that a logit may change by
_NOISE = 10.0  # standard deviation of padded rows
_LARGE = 1000.0
_PAIRS_AT_ONCE = 50  # stop after the first group with a counter-example


@dataclass(frozen=True, slots=True)
class Property:
    """The result of testing one property.

    Attributes:
        status: ``holds`` if no case violates it, ``fails``, or ``n/a`` if it is not applicable.
        tried: number of cases.
        broken: number of cases that violate the property.
        worst: largest change of a logit in the forbidden direction; for the gradient sign, the
            smallest derivative. NaN without cases.
        note: remark for the reader, or empty.
        example: a case that violates the property, for monotonicity and duplication.
        sizes: smallest and largest size of the bags that violate monotonicity.
    """

    status: Status
    tried: int = 0
    broken: int = 0
    worst: float = float("nan")
    note: str = ""
    example: CounterExample | None = None
    sizes: tuple[int, int] | None = None

    def record(self) -> dict[str, Any]:
        """Return the result for JSON."""
        names = ("status", "tried", "broken", "worst", "note", "sizes")
        example = None if self.example is None else self.example.record()
        return {**{name: getattr(self, name) for name in names}, "example": example}


def draw_instances(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return (count, dim) instances as in the trained tests: background and concepts."""
    kinds = torch.tensor([(0.0, 1.0), *_KINDS])
    chosen = torch.randint(1, len(kinds), (count,), generator=generator)
    chosen[torch.rand(count, generator=generator) < _BACKGROUND] = 0
    mean, std = kinds[chosen].unsqueeze(2).unbind(1)
    return mean + std * torch.randn(count, dim, generator=generator)


def draw_bags(
    count: int, sizes: tuple[int, int], dim: int, generator: torch.Generator
) -> list[Tensor]:
    """Return bags (n, dim); the first two have the smallest and the largest size."""
    low, high = sizes
    drawn = torch.randint(low, high + 1, (count,), generator=generator).tolist()
    drawn[:2] = sizes[: len(drawn)]
    return [draw_instances(size, dim, generator) for size in drawn]


def far_instances(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return (count, dim) normal instances scaled by a heavy-tailed factor of up to 1000."""
    tail = torch.rand(count, 1, generator=generator).clamp(min=1 / _LARGE)
    return torch.randn(count, dim, generator=generator) / tail


def check_permutation(
    model: BagModel, bags: Sequence[Tensor], generator: torch.Generator
) -> Property:
    """Compare bags with the same bags in another order of instances."""
    mixed = [bag[torch.randperm(len(bag), generator=generator)] for bag in bags]
    return _unchanged(scores(model, bags), scores(model, mixed))


def check_padding(model: BagModel, bags: Sequence[Tensor]) -> Property:
    """Compare bags alone and in one batch, for padded modules also with noise as padding."""
    if model.adapter == "bag":
        return Property("n/a", note="one bag per call")
    with torch.no_grad():
        alone = torch.cat([model.logits([bag]) for bag in bags])
        found = _unchanged(alone, model.logits(bags))
    if not isinstance(model, PaddedModel):
        return found
    if not model.takes_mask:
        return _noted(found, "its forward takes no mask")
    with torch.no_grad():
        noisy = _unchanged(alone, model.with_padding(_NOISE).logits(bags))
    found = max(found, noisy, key=lambda part: part.broken)
    return _noted(found, "reads rows that the mask leaves out") if found.broken else found


def check_duplication(
    model: BagModel, bags: Sequence[Tensor], generator: torch.Generator
) -> Property:
    """Compare bags with the same bags plus a copy of one of their instances."""
    copied = [bag[torch.randint(len(bag), (1,), generator=generator)] for bag in bags]
    before = scores(model, bags)
    after = scores(model, _with(bags, torch.cat(copied)))
    found = _unchanged(before, after)
    if found.status == "holds":
        return found
    worst = int((after - before).abs().nan_to_num(torch.inf).argmax())
    example = CounterExample(
        bags[worst], copied[worst][0], float(before[worst]), float(after[worst])
    )
    return Property("fails", found.tried, found.broken, found.worst, "", example)


def check_bag_copies(model: BagModel, bags: Sequence[Tensor]) -> Property:
    """Compare bags with bags that have every instance twice."""
    return _unchanged(scores(model, bags), scores(model, [torch.cat([bag, bag]) for bag in bags]))


def check_monotonicity(
    model: BagModel, bags: Sequence[Tensor], searched: int, generator: torch.Generator
) -> Property:
    """Add an instance to each bag until one lowers a logit; if none does, search for one.

    Args:
        model: a model in evaluation mode.
        bags: P bags, tested in groups. Half of each group gets an instance from the distribution of
            the bags, the other half a distant instance.
        searched: number of bags for the search.
        generator: random generator of the instances.
    """
    dim, tried = bags[0].shape[1], 0
    change = torch.zeros(0, dtype=bags[0].dtype)
    for start in range(0, len(bags), _PAIRS_AT_ONCE):
        some = bags[start : start + _PAIRS_AT_ONCE]
        half = len(some) // 2
        usual = draw_instances(half, dim, generator)
        far = far_instances(len(some) - half, dim, generator)
        added = torch.cat([usual, far]).to(bags[0].dtype)
        before, after = scores(model, some), scores(model, _with(some, added))
        tried += len(some)
        change = (after - before).where(after.isfinite() & before.isfinite(), 0.0)
        lower = change < -tolerance(before)
        if bool(lower.any()):
            near = lower[:half].any()  # more convincing than a distant instance
            worst = int((change[:half] if near else change).argmin())
            pair = (some[worst], added[worst], float(before[worst]), float(after[worst]))
            sizes = [len(bag) for bag, broken in zip(some, lower.tolist(), strict=True) if broken]
            found_in = (min(sizes), max(sizes))
            largest = -float(change.min())
            example = CounterExample(*pair)
            return Property("fails", tried, len(sizes), largest, "", example, found_in)
    chosen = list(bags[:searched])
    candidates = search_candidates(dim, generator).to(bags[0].dtype)
    found = search_counter_example(model, chosen, candidates)
    tried += len(chosen) * len(candidates)
    if found is None:
        return Property("holds", tried, 0, max(0.0, -float(change.min())))
    size = len(found.bag)
    note, worst_change = "found only by the search", found.before - found.after
    return Property("fails", tried, 1, worst_change, note, found, (size, size))


def search_candidates(dim: int, generator: torch.Generator) -> Tensor:
    """Return instances (C, dim) that may lower a score: concepts, equal and distant features."""
    kinds = torch.tensor(_KINDS)
    concepts = kinds[:, :1] + kinds[:, 1:] * torch.randn(len(kinds), dim, generator=generator)
    equal = torch.tensor([s * m for s in (-1.0, 1.0) for m in (1.0, 10.0, 100.0, _LARGE)])
    directions = torch.randn(8, dim, generator=generator)
    scaled = [scale * directions for scale in (1.0, 30.0, _LARGE)]
    return torch.cat([concepts, equal.unsqueeze(1).expand(-1, dim), *scaled])


def check_gradient_sign(model: BagModel, bags: Sequence[Tensor]) -> Property:
    """Differentiate logits by the instance scores that they are computed from (A167)."""
    with torch.enable_grad():
        found = model.instance_scores(bags)
        if found is None:
            return Property("n/a", note="no scores of instances")
        logits, instances = found
        slope = None
        if logits.requires_grad and instances.requires_grad:
            (slope,) = torch.autograd.grad(logits.sum(), instances, allow_unused=True)
    if slope is None:
        return Property("n/a", note="bag scores are not computed from scores of instances")
    broken = int((~(slope >= 0)).sum())
    status: Status = "fails" if broken else "holds"
    return Property(status, slope.numel(), broken, float(slope.min()))


def _with(bags: Sequence[Tensor], added: Tensor) -> list[Tensor]:
    """Return each bag with one row of (B, D) appended (A166)."""
    return [torch.cat([bag, row.unsqueeze(0)]) for bag, row in zip(bags, added, strict=True)]


def _unchanged(before: Tensor, after: Tensor) -> Property:
    change = (after - before).abs().nan_to_num(torch.inf, torch.inf)
    broken = int((change > _SAME * tolerance(before)).sum())
    status: Status = "fails" if broken else "holds"
    return Property(status, len(before), broken, float(change.max()))


def _noted(found: Property, note: str) -> Property:
    return Property(found.status, found.tried, found.broken, found.worst, note, found.example)
