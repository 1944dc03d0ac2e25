"""From the mask of an object to one closed path that rasterises to it."""

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
    """Return the borders of a mask, outer ones and those of holes, along the edges of pixels.

    Filled by the even-odd rule the paths give the mask exactly. Where two pixels touch at a corner
    only, the four edges meeting there are shared out between the paths in an arbitrary way, which
    the even-odd rule does not notice.

    Args:
        mask: (h, w), nonzero inside.

    Returns:
        One (n, 2) array of corners (x, y) a border, in integers from 0 to w and 0 to h.

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
    """Connect closed paths by bridges of no width, walked there and back, into one closed path.

    A bridge crosses every column twice at one height, so the even-odd rule fills what it filled
    before, and the COCO tools fill by that rule.

    Args:
        paths: at least one array (n, 2) of corners (x, y).

    Returns:
        (n, 2), the first path with the others let in.
    """
    joined = paths[0]
    for path in paths[1:]:
        at = int(np.argmin(np.square(joined - path[0]).sum(axis=1)))
        joined = np.concatenate([joined[: at + 1], path, path[:1], joined[at:]])
    return joined
