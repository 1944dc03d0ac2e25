"""Conversion of a mask to one closed path that rasterises to the mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Nodes = npt.NDArray[np.int64]


def _partners(order: Nodes) -> list[int]:
    """Pair neighbours in a sorted order of the nodes and return the partner of each node."""
    partner = np.empty(order.size, dtype=np.int64)
    partner[order[0::2]] = order[1::2]
    partner[order[1::2]] = order[0::2]
    return [int(node) for node in partner]


def trace(mask: npt.NDArray[Any]) -> list[Points]:
    """Return the borders of a mask along the edges of pixels, including the borders of holes.

    Filled by the even-odd rule, the paths give the mask exactly. Where two pixels touch only at a
    corner, the four edges meeting there are assigned to the paths in an arbitrary way, which does
    not affect the even-odd rule.

    Args:
        mask: (h, w), nonzero inside.

    Returns:
        One (n, 2) array of corners (x, y) per border, integers from 0 to w and 0 to h.

    >>> trace(np.array([[0, 1], [0, 1]]))[0].tolist()
    [[1.0, 0.0], [2.0, 0.0], [2.0, 2.0], [1.0, 2.0]]
    """
    around = np.pad(np.asarray(mask, dtype=bool), 1)
    above_left, above = around[:-1, :-1], around[:-1, 1:]
    left, here = around[1:, :-1], around[1:, 1:]
    corner = above_left ^ above ^ left ^ here  # an odd number of the four pixels is inside
    touching = (above_left == here) & (above == left) & (above != here)
    places = np.concatenate([np.argwhere(corner), np.repeat(np.argwhere(touching), 2, axis=0)])
    rows, columns = places[:, 0], places[:, 1]
    # Along a grid line the border is drawn between the 1st and 2nd corner, the 3rd and 4th, ...
    across = _partners(np.lexsort((columns, rows)))
    down = _partners(np.lexsort((rows, columns)))
    paths, seen = [], [False] * len(across)
    for start in range(len(across)):
        path, node = [], start
        while not seen[node]:
            path += [node, across[node]]
            seen[node] = seen[across[node]] = True
            node = down[across[node]]
        if path:
            paths.append(places[path][:, ::-1].astype(np.float64))
    return paths


def join(paths: Sequence[Points]) -> Points:
    """Connect closed paths into one closed path by bridges of zero width.

    A bridge crosses every column twice at the same height, so it does not change the area filled by
    the even-odd rule, which the COCO tools use.

    Args:
        paths: at least one array (n, 2) of corners (x, y).

    Returns:
        (n, 2), the first path with the others inserted.
    """
    joined = paths[0]
    for path in paths[1:]:
        at = int(np.argmin(np.square(joined - path[0]).sum(axis=1)))
        joined = np.concatenate([joined[: at + 1], path, path[:1], joined[at:]])
    return joined
