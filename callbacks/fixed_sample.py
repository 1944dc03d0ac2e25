"""Fixed samples of a data set: a few items, always the same, spread over the whole data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")


def priority(index: int) -> int:
    """Return the priority of an item by its number; smaller values are chosen first.

    The multiples of the golden ratio modulo 1 fill the unit interval evenly at every length
    (Fibonacci hashing, Knuth, The Art of Computer Programming 3, section 6.4), so the items with
    the smallest values are spread over a data set of any size. Number 0 always comes first.

    >>> sorted(range(100), key=priority)[:8]
    [0, 89, 34, 68, 13, 47, 81, 26]
    """
    return (index * 0x9E3779B97F4A7C15) % 2**64


class FixedSample(Generic[Item]):
    """The K items with the smallest `priority` among the offered items; no others are stored.

    The result depends only on the numbers of the items, not on their order, the batches, the
    processes or the length of the data set.

    Args:
        capacity: number of items K.

    Raises:
        ValueError: ``capacity`` is negative.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f"a sample needs a capacity of at least 0, got {capacity}")
        self.capacity = capacity
        self._items: dict[int, Item] = {}

    def wants(self, index: int) -> bool:
        """Return whether the item with this number would be kept now."""
        if index in self._items or self.capacity == 0:
            return False
        if len(self._items) < self.capacity:
            return True
        return priority(index) < priority(max(self._items, key=priority))

    def add(self, index: int, item: Item) -> None:
        """Keep the item if it is wanted; if necessary, it replaces the least wanted item."""
        if not self.wants(index):
            return
        if len(self._items) == self.capacity:
            del self._items[max(self._items, key=priority)]
        self._items[index] = item

    def merge(self, parts: Iterable[dict[int, Item]]) -> None:
        """Offer the items of other samples (see `state`)."""
        for part in parts:
            for index, item in part.items():
                self.add(index, item)

    def state(self) -> dict[int, Item]:
        """Return the items by number, for gathering."""
        return dict(self._items)

    def items(self) -> list[tuple[int, Item]]:
        """Return (number, item) sorted by number."""
        return sorted(self._items.items(), key=lambda pair: pair[0])
