"""Outputs of a multiple-instance model for each bag, in host memory, for callbacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from callbacks.mil.slide_parts import SlidePart, slide_parts
from structures import BagBatch


@dataclass(frozen=True, slots=True)
class BagAttention:
    """Attention of a bag with the known properties of its n instances.

    Attributes:
        index: number of the bag in its data set.
        bag_id: name of the bag.
        weights: (n, K) float32, one column per branch; each column sums to 1.
        witness: (n,) int64 instance labels, -1 where unknown, or None.
        coords: (n, 2) level-0 pixels (x, y), each in its own slide, or None.
        parts: the slides of the bag in the order of the instances; empty for bags of other data.
    """

    index: int
    bag_id: str
    weights: npt.NDArray[np.float32]
    witness: npt.NDArray[np.int64] | None
    coords: npt.NDArray[Any] | None
    parts: tuple[SlidePart, ...] = ()

    def places(self) -> npt.NDArray[Any] | None:
        """Return (n, 2) coordinates, NaN for slides without; None if no slide has any."""
        if self.coords is not None or all(part.coords is None for part in self.parts):
            return self.coords
        found = np.full((len(self.weights), 2), np.nan)
        for part in self.parts:
            if part.coords is not None:
                found[part.rows] = part.coords
        return found


def bag_attention(bags: BagBatch, attention: Tensor, source: Any = None) -> list[BagAttention]:
    """Split the attention of a batch by bag.

    Args:
        bags: the batch.
        attention: (N,) or (N, K).
        source: the data set of slides that the bags are from, see `slide_source`, or None.
    """
    weights = attention.detach().float().cpu().numpy()
    weights = weights.reshape(len(weights), -1)
    witness, coords = _on_host(bags.instance_labels), _on_host(bags.coords)
    offsets, result = bags.offsets.tolist(), []
    for b, index in enumerate(bags.index.tolist()):
        part = slice(offsets[b], offsets[b + 1])
        result.append(
            BagAttention(
                index=index,
                bag_id=bag_name(bags, b),
                weights=weights[part].copy(),  # a view would keep the whole batch alive
                witness=None if witness is None else witness[part].copy(),
                coords=None if coords is None else coords[part].copy(),
                parts=slide_parts(source, bags, b),
            )
        )
    return result


def bag_name(bags: BagBatch, position: int) -> str:
    """Return the name of a bag in the data set, or its number if there are no names."""
    return bags.bag_ids[position] if bags.bag_ids else str(int(bags.index[position]))


def _on_host(values: Tensor | None) -> npt.NDArray[Any] | None:
    return None if values is None else values.cpu().numpy()
