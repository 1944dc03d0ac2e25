"""Parts of a set of slides for many machines that know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_FORM = re.compile(r"([1-9]\d*)/([1-9]\d*)")


class Shard(NamedTuple):
    """One of several parts.

    Attributes:
        number: of the part, from 1.
        parts: how many there are.
    """

    number: int
    parts: int

    @property
    def table(self) -> str:
        """The name of the table that the part writes."""
        return f"extraction_{self.number}_of_{self.parts}.csv"

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"


def read_shard(text: str) -> Shard:
    """Return the shard that a text such as ``3/16`` names.

    Raises:
        ValueError: the text is no such pair of numbers.

    >>> read_shard("3/16")
    Shard(number=3, parts=16)
    """
    found = _FORM.fullmatch(text.strip())
    shard = Shard(*map(int, found.groups())) if found else None
    if shard is None or shard.number > shard.parts:
        raise ValueError(
            f"shard must be NUMBER/COUNT with a number from 1 to the count, such as 3/16, got "
            f"{text!r}; the tasks of an array of Slurm count from 1 with --array=1-16"
        )
    return shard


def balanced(sizes: Mapping[str, int], count: int) -> list[set[str]]:
    """Return parts of about equal size: each item, the largest first, goes to the smallest part.

    The largest part is at most 4/3 of the best possible one (Graham 1969, SIAM J. Appl. Math. 17,
    theorem 2). The result depends on names and sizes alone, not on their order.

    Args:
        sizes: of the items, by name.
        count: number of parts; those beyond the number of items are empty.

    >>> [sorted(part) for part in balanced({"a": 9, "b": 1, "c": 5}, 2)]
    [['a'], ['b', 'c']]
    """
    parts, loads = [set[str]() for _ in range(count)], [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = loads.index(min(loads))
        loads[least] += sizes[name]
        parts[least].add(name)
    return parts
