"""Comparison of the weights of two networks by name and shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Shape = tuple[int, ...]


class WeightDifferences(NamedTuple):
    """Differences between given weights and a network; all fields are empty if there are none.

    Attributes:
        missing: names that the network has and the weights lack.
        unexpected: names that the weights have and the network lacks.
        mismatched: by name, the shape in the weights and the shape in the network.
    """

    missing: list[str]
    unexpected: list[str]
    mismatched: dict[str, tuple[Shape, Shape]]


def compare_weights(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> WeightDifferences:
    """Compare the names and shapes of weights with a network.

    Args:
        found: weights by name; a value that is not a tensor counts as one without axes.
        wanted: ``state_dict`` of the network.

    Returns:
        The differences, in the order of the names.
    """
    shapes = {n: (_shape(found[n]), _shape(wanted[n])) for n in sorted(set(found) & set(wanted))}
    return WeightDifferences(
        missing=sorted(set(wanted) - set(found)),
        unexpected=sorted(set(found) - set(wanted)),
        mismatched={name: pair for name, pair in shapes.items() if pair[0] != pair[1]},
    )


def _shape(value: Any) -> Shape:
    return tuple(getattr(value, "shape", ()))


def some_of(faults: Sequence[str], most: int = 5) -> str:
    """Join the first faults for a message.

    >>> some_of(["a", "b", "c"], most=2)
    'a; b and 1 more'
    """
    more = f" and {len(faults) - most} more" if len(faults) > most else ""
    return "; ".join(faults[:most]) + more
