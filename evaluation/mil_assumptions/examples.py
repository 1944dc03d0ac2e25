"""Counter-examples for trained models: bags whose score falls with an added instance.

The search itself is in `evaluation.mil_assumptions.counter_example`. Here it starts from the
instances of a test (A160), because a model that learnt a shortcut reacts most to them. The results
are reported with the kind of the instance and in the units of the bags as drawn.
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

_BAGS = 16  # bags of each split
_EACH_KIND = 8  # candidates of each kind
_MADE = "found by the search"
_SHOWN = 6  # instances in a table

Row = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FoundExample:
    """A bag whose score falls with one more instance. Features are in the units of the data.

    Attributes:
        split: split of the bag.
        number: number of the bag in its split, from 0.
        label: 0 or 1.
        contents: number of instances of each kind in the bag.
        rows: kind and features (D,) of each instance of the bag.
        added: kind of the added instance, or a note that the search found it.
        values: (D,) features of the added instance.
        before: logit of the bag.
        after: logit with the added instance.
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
        """Return rows (instance, mean, std, lowest, highest feature); background has one row."""
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
    """Search for a bag whose score falls with one more instance.

    Args:
        model: the trained model.
        bags: the bags of its test.
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
    return range(min(_BAGS, len(part.features)))  # classes alternate


def _candidates(splits: Sequence[tuple[Split, AssumptionBags]]) -> tuple[Tensor, Tensor]:
    """Return instances (C, D) of every kind in the bags, and their kinds (C,)."""
    packed = torch.cat([bag for _, part in splits for bag in part.features])
    kinds = torch.cat([part.kinds for _, part in splits])
    rows = torch.cat([(kinds == kind).nonzero()[:_EACH_KIND, 0] for kind in range(4)])
    return packed[rows], kinds[rows]


def _summary(values: Row) -> tuple[str, str, str, str]:
    row = torch.tensor(values, dtype=torch.float64)
    numbers = (row.mean(), row.std(correction=0), row.min(), row.max())
    mean, std, low, high = (f"{float(number):.3g}" for number in numbers)
    return mean, std, low, high
