"""Bags of the algorithmic unit tests that lose score by a further instance, in words.

The search itself is `evaluation.mil_assumptions.counter_example`. Here it starts from the instances
that a test has (A160), because a model that learnt a shortcut reacts to those most, and what it
finds is told by its kind and in the units that the bags were drawn in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluation.mil_assumptions.bag_models import BagModel
from evaluation.mil_assumptions.bags import AssumptionBags, Split, TestNumber, kind_names
from evaluation.mil_assumptions.counter_example import search_counter_example
from evaluation.mil_assumptions.training import DrawnBags

_BAGS = 16  # of each split
_EACH_KIND = 8  # candidates
_MADE = "one that the search made"
_SHOWN = 6  # instances of a table

Row = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FoundExample:
    """A bag that scores less with one more instance. Features are in the units of the data.

    Attributes:
        split: where the bag is from.
        number: its place there, from 0 on.
        label: 0 or 1.
        contents: how many instances of each kind it has.
        rows: kind and features (D,) of each of its instances.
        added: what the further instance is: a kind, or that the search made it.
        values: (D,) features of it.
        before: logit of the bag.
        after: logit with the further instance.
    """

    split: Split
    number: int
    label: int
    contents: dict[str, int]
    rows: tuple[tuple[str, Row], ...]
    added: str
    values: Row
    before: float
    after: float

    def describe(self) -> str:
        """Return the example in one sentence."""
        sign = "positive" if self.label else "negative"
        holds = ", ".join(f"{count} {name}" for name, count in self.contents.items())
        return (
            f"the {sign} {self.split} bag {self.number} ({holds}) has the logit "
            f"{self.before:.4g}; with one more instance, {self.added}, it has {self.after:.4g}"
        )

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """Return rows (instance, mean, std, lowest, highest feature); background is counted."""
        special = [row for row in self.rows if row[0] != "background"]
        lines = [(kind, *_summary(values)) for kind, values in special[:_SHOWN]]
        left = len(special) - len(lines)
        if left:
            lines.append((f"and {left} more of these kinds", "", "", "", ""))
        background = self.contents.get("background", 0)
        lines.append((f"{background} background instances", "", "", "", ""))
        return [*lines, (f"added: {self.added}", *_summary(self.values))]

    def record(self) -> dict[str, Any]:
        """Return the example for JSON."""
        return dataclasses.asdict(self)


def find_example(model: BagModel, bags: DrawnBags, test: TestNumber) -> FoundExample | None:
    """Search a trained model for a bag that scores less with one more instance.

    Args:
        model: the trained model.
        bags: those of its test.
        test: 1, 2 or 3.
    """
    splits: list[tuple[Split, AssumptionBags]] = [("train", bags.train), ("test", bags.test)]
    places = [(split, part, b) for split, part in splits for b in _first(part)]
    searched = [part.features[b] for _, part, b in places]
    candidates, kinds = _candidates(splits)
    found = search_counter_example(model, searched, candidates)
    if found is None:
        return None
    split, part, b = next(
        place for place, bag in zip(places, searched, strict=True) if bag is found.bag
    )
    names, of_bag = kind_names(test), part.kinds_of(b)
    counts = torch.bincount(of_bag, minlength=len(names)).tolist()
    raw = bags.original(found.bag)
    same = (candidates == found.added).all(1).nonzero()[:, 0].tolist()
    return FoundExample(
        split=split,
        number=b,
        label=int(part.labels[b]),
        contents={names[k]: counts[k] for k in range(len(names)) if counts[k]},
        rows=tuple(
            (names[k], tuple(row)) for k, row in zip(of_bag.tolist(), raw.tolist(), strict=True)
        ),
        added=names[int(kinds[same[0]])] if same else _MADE,
        values=tuple(bags.original(found.added).tolist()),
        before=found.before,
        after=found.after,
    )


def _first(part: AssumptionBags) -> range:
    return range(min(_BAGS, len(part.features)))  # classes take turns


def _candidates(splits: Sequence[tuple[Split, AssumptionBags]]) -> tuple[Tensor, Tensor]:
    """Return instances (C, D) of every kind that the bags have, and their kinds (C,)."""
    packed = torch.cat([bag for _, part in splits for bag in part.features])
    kinds = torch.cat([part.kinds for _, part in splits])
    rows = torch.cat([(kinds == kind).nonzero()[:_EACH_KIND, 0] for kind in range(4)])
    return packed[rows], kinds[rows]


def _summary(values: Row) -> tuple[str, str, str, str]:
    row = torch.tensor(values, dtype=torch.float64)
    numbers = (row.mean(), row.std(correction=0), row.min(), row.max())
    mean, std, low, high = (f"{float(number):.3g}" for number in numbers)
    return mean, std, low, high
