"""Structural tests of an aggregator with random weights, before any training.

Properties that the score s of a bag X should have, or may be required to have (Raff & Holt, NeurIPS
2023):

    permutation    the order of the instances changes nothing
    padding        other bags in the batch change nothing: bags alone and in one batch; for padded
                   modules also with noise in the padded rows
    monotonicity   s(X with x) >= s(X): no added instance lowers the score. Random pairs, then a
                   search (`evaluation.mil_assumptions.counter_example`)
    duplication    s(X with a copy of one of its instances) = s(X)
    bag copies     s(X twice) = s(X)
    gradient sign  d s / d s_n >= 0 for the instance scores s_n that s is computed from

A property ``fails`` if one case violates it; it ``holds`` if no case of any network does. Bags have
from 1 to 45 instances, so an aggregator that is monotone only from k instances on, or only among
bags of one size, fails and the sizes are reported (A164).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluation.mil_assumptions.bag_models import BagModel, BuildModel
from evaluation.mil_assumptions.counter_example import (
    CounterExample,
    evaluated,
    scores,
    search_counter_example,
    tolerance,
)
from evaluation.mil_assumptions.structure_checks import (
    Property,
    check_bag_copies,
    check_duplication,
    check_gradient_sign,
    check_monotonicity,
    check_padding,
    check_permutation,
    draw_bags,
    draw_instances,
)

__all__ = [
    "CounterExample",
    "Property",
    "StructureReport",
    "StructureSettings",
    "check_structure",
    "search_counter_example",
]

_NAMES = (
    "permutation",
    "padding",
    "monotonicity",
    "duplication",
    "bag_copies",
    "gradient_sign",
)


_PROBABILITIES = (
    "all its outputs lie in [0, 1]; are they probabilities? They are trained as log-odds of class "
    "1, so leave out the last sigmoid"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureSettings:
    """Numbers of networks and bags in the structural tests.

    Attributes:
        seeds: number of networks, with the weights of seeds 0, 1, ...
        pairs: bags per network that get an added instance.
        bags: bags per network for the other tests.
        searched: bags per network for the search.
        sizes: smallest and largest number of instances of a bag.
    """

    seeds: int = 4
    pairs: int = 250
    bags: int = 20
    searched: int = 6
    sizes: tuple[int, int] = (1, 45)


@dataclass(frozen=True, slots=True)
class StructureReport:
    """The properties of an aggregator.

    Attributes:
        permutation: effect of the order of instances.
        padding: effect of other bags in the batch.
        monotonicity: effect of added instances.
        duplication: effect of a copy of one instance.
        bag_copies: effect of having every instance twice.
        gradient_sign: derivative by each instance score.
        notes: remarks on the module as a whole.
    """

    permutation: Property
    padding: Property
    monotonicity: Property
    duplication: Property
    bag_copies: Property
    gradient_sign: Property
    notes: tuple[str, ...] = ()

    def properties(self) -> dict[str, Property]:
        """Return all properties by name, in the order of the tables."""
        return {name: getattr(self, name) for name in _NAMES}

    def record(self) -> dict[str, Any]:
        """Return the report for JSON."""
        found = {name: value.record() for name, value in self.properties().items()}
        return {**found, "notes": list(self.notes)}


def check_structure(
    build: BuildModel, dim: int = 16, settings: StructureSettings | None = None
) -> StructureReport:
    """Test the structure of an aggregator with random weights, in evaluation mode.

    Args:
        build: function that builds the aggregator from a seed.
        dim: D, features of an instance.
        settings: numbers of networks and bags.

    Raises:
        ValueError: the module fails on bags of every size, or does not return logits.
    """
    settings = settings or StructureSettings()
    parts: list[dict[str, Property]] = []
    notes: dict[str, None] = {}  # ordered, without duplicates
    saturated = True
    with torch.random.fork_rng(devices=[]):
        for seed in range(settings.seeds):
            model = build(seed)
            properties, found = _check_network(model, dim, settings, seed)
            parts.append(properties)
            notes.update(dict.fromkeys(found))
            saturated = saturated and _saturates(model, dim, settings.sizes[1])
    if saturated:
        notes[_PROBABILITIES] = None
    merged = {name: _merged(name, [part[name] for part in parts]) for name in _NAMES}
    return StructureReport(**merged, notes=tuple(notes))


def _check_network(
    model: BagModel, dim: int, settings: StructureSettings, seed: int
) -> tuple[dict[str, Property], list[str]]:
    """Return the properties of one network, and remarks on it."""
    generator = torch.Generator().manual_seed(seed)
    notes = []
    model.module.eval()
    sizes = (_smallest(model, dim, settings.sizes), settings.sizes[1])
    if sizes[0] > settings.sizes[0]:
        notes.append(f"raises on bags of fewer than {sizes[0]} instances; tested from there on")
    one = draw_instances(sizes[1], dim, generator)
    with evaluated(model, one) as dtype:

        def drawn(count: int) -> list[Tensor]:
            return [bag.to(dtype) for bag in draw_bags(count, sizes, dim, generator)]

        bags = drawn(settings.bags)
        if _draws(model, bags):
            notes.append("two calls in evaluation mode differ, so there is nothing to compare")
            return dict.fromkeys(_NAMES, Property("n/a", note="random outputs")), notes
        found = {
            "permutation": check_permutation(model, bags, generator),
            "padding": check_padding(model, bags),
            "monotonicity": check_monotonicity(
                model, drawn(settings.pairs), settings.searched, generator
            ),
            "duplication": check_duplication(model, bags, generator),
            "bag_copies": check_bag_copies(model, bags),
            "gradient_sign": check_gradient_sign(model, bags),
        }
    return found, notes


def _smallest(model: BagModel, dim: int, sizes: tuple[int, int]) -> int:
    """Return the smallest size of a bag that a module does not raise on."""
    low, high = sizes
    for size in sorted({low, *(s for s in (2, 3, 5, 8, 10, 16, 32) if low < s < high)}):
        try:
            scores(model, [torch.zeros(size, dim)])
        except ValueError:
            continue
        return size
    return high


def _saturates(model: BagModel, dim: int, size: int) -> bool:
    """Return whether distant instances bring outputs to 0 or 1 but not beyond, as with a sigmoid.

    Logits of bounded embeddings may stay in [0, 1] by chance, but do not reach both ends.
    """
    generator = torch.Generator().manual_seed(0)
    model.module.eval()
    lengths = [1.0, -1.0, 30.0, -30.0, 1000.0, -1000.0]
    found = scores(model, [length * draw_instances(size, dim, generator) for length in lengths])
    beyond = torch.maximum(-found, found - 1)  # (6,) distance to the nearer end, negative inside
    return bool(-1e-3 < beyond.max() <= 0) and bool(found.min() < found.max())


def _draws(model: BagModel, bags: Sequence[Tensor]) -> bool:
    """Return whether two calls differ by more than rounding."""
    first, second = scores(model, bags), scores(model, bags)
    return bool(((second - first).abs() > tolerance(first)).any())


def _merged(name: str, parts: Sequence[Property]) -> Property:
    """Return the combined result of a property over several networks."""
    pick: Callable[[Iterable[float]], float] = min if name == "gradient_sign" else max
    tested = [part for part in parts if part.status != "n/a"]
    if not tested:
        return parts[0]
    failed = [part for part in tested if part.status == "fails"]
    notes = dict.fromkeys(part.note for part in (failed or tested) if part.note)
    sizes = [size for part in failed for size in part.sizes or ()]
    if sizes:
        notes[f"bags of {min(sizes)} to {max(sizes)} instances"] = None
    return Property(
        "fails" if failed else "holds",
        sum(part.tried for part in tested),
        sum(part.broken for part in tested),
        pick(part.worst for part in tested),
        "; ".join(notes),
        failed[0].example if failed else None,
        (min(sizes), max(sizes)) if sizes else None,
    )
