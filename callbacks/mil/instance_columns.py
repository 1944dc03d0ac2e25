"""Columns of the most attended instances in the table of bags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from callbacks.mil.bag_outputs import BagAttention


@dataclass(frozen=True, slots=True)
class TopInstances:
    """The most attended instances of a bag.

    Attributes:
        size: number of instances in the bag.
        numbers: (k,) indices of the instances in the bag, most attended first; empty without
            attention.
        weights: (k,) attention of these instances.
        coords: (k, 2) level-0 pixels (x, y), NaN where unknown, or None.
        slides: (k,) ids of the slides of these instances; empty for bags of other data.
    """

    size: int
    numbers: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    coords: npt.NDArray[Any] | None
    slides: tuple[str, ...] = ()


def top_instances(bag: BagAttention, count: int) -> TopInstances:
    """Return the ``count`` most attended instances of a bag, or all if there are fewer."""
    weights = bag.weights.astype(np.float64).mean(axis=1)
    chosen = np.argsort(-weights, kind="stable")[:count]
    places = bag.places()
    coords = None if places is None else places[chosen]
    ends = [part.rows.stop for part in bag.parts]
    owners = np.searchsorted(ends, chosen, side="right") if ends else ()
    slides = tuple(bag.parts[owner].slide for owner in owners)
    return TopInstances(len(weights), chosen, weights[chosen], coords, slides)


class InstanceColumns:
    """Number of instances of each bag, then number, attention, slide and place of its top ones.

    Columns of slides and places are there if some bag has them; a bag of one slide has its name.

    Args:
        kept: most attended instances by number of the bag.
        names: names of the bags by number.
        top: most instances of a bag.

    Attributes:
        names: names of the columns.
    """

    def __init__(
        self, kept: Mapping[int, TopInstances], names: Mapping[int, str], top: int
    ) -> None:
        self._kept, self._top = kept, top
        self._coords = any(one.coords is not None for one in kept.values())
        self._slides = any(set(one.slides) - {names.get(n)} for n, one in kept.items())
        self.names = ["instances"]
        for k in range(1, top + 1):
            self.names += [f"instance {k}", f"attention {k}"]
            self.names += [f"slide {k}"] * self._slides + [f"x {k}", f"y {k}"] * self._coords

    def cells(self, number: int) -> list[Any]:
        """Return the cells of a bag; missing instances have empty cells."""
        one, width = self._kept.get(number), 2 + self._slides + 2 * self._coords
        if one is None:
            return [None] * len(self.names)
        cells: list[Any] = [one.size]
        for k in range(self._top):
            if k >= len(one.numbers):
                cells += [None] * width
                continue
            cells += [int(one.numbers[k]), float(one.weights[k])]
            if self._slides:
                cells.append(one.slides[k] if one.slides else None)
            if self._coords:
                place = np.full(2, np.nan) if one.coords is None else one.coords[k]
                cells += [None, None] if np.isnan(place).any() else place.tolist()
        return cells


def worst_first(columns: list[str], rows: list[list[Any]]) -> list[list[Any]]:
    """Return the rows in falling order of the column ``error``, unknown errors (NaN) last."""
    place = columns.index("error")
    return sorted(rows, key=lambda row: -row[place] if row[place] >= 0 else 1.0)
