"""Regions of patches: squares joined along their edges, as polygons with holes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from formats.slides.rings import mask_rings

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_SNAP = (
    1.5  # pixels of level 0 by which the edges of neighbours may differ through rounding  # A654
)


class PatchRegion(NamedTuple):
    """Patches that are joined.

    Attributes:
        polygon: the outline and then the holes, each (n, 2) of (x, y), not closed.
        patches: (n,) int64, the numbers of the patches in it.
    """

    polygon: list[Floats]
    patches: npt.NDArray[np.int64]


def join_patches(coords: Array, side: float) -> list[PatchRegion]:
    """Join square patches that overlap or have a part of an edge in common; corners do not count.

    Args:
        coords: (N, 2) x and y of the top-left corners, in pixels of level 0.
        side: of a patch, in pixels of level 0.

    Returns:
        Regions, each valid as a polygon: its rings neither cross nor touch themselves.

    Raises:
        ValueError: the side is not positive.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if not side > 0:
        raise ValueError(f"the side of a patch must be positive, got {side}")
    corners = np.asarray(coords, np.float64).reshape(-1, 2)
    if not len(corners):
        return []
    # Patches that are near each other first, since the cells of a whole slide need memory.
    pairs = cKDTree(corners).query_pairs(side + _SNAP, p=np.inf, output_type="ndarray")
    near = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(corners),) * 2)
    count, group = connected_components(near, directed=False)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=count))[:-1]
    return [
        region._replace(patches=members[region.patches])
        for members in np.split(order, ends)
        for region in _joined(corners[members], side)
    ]


def _joined(corners: Floats, side: float) -> list[PatchRegion]:
    """Return the regions of patches that lie near each other."""
    from scipy import ndimage

    if len(corners) == 1:
        square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side
        return [PatchRegion([corners + square], np.zeros(1, np.int64))]
    xs, first_x, last_x = _edges(corners[:, 0], side)
    ys, first_y, last_y = _edges(corners[:, 1], side)
    # Cells between neighbouring edges: corners of patches are counted and summed along both axes.
    change = np.zeros((len(ys), len(xs)), np.int32)
    np.add.at(change, (first_y, first_x), 1)
    np.add.at(change, (last_y, last_x), 1)
    np.add.at(change, (first_y, last_x), -1)
    np.add.at(change, (last_y, first_x), -1)
    labels, _ = ndimage.label(change.cumsum(0).cumsum(1) > 0)
    of_patch = labels[first_y, first_x]
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        corner = np.array([box[1].start, box[0].start])
        rings = [np.array(ring) + corner for ring in mask_rings(labels[box] == number)]
        polygon = [np.stack([xs[ring[:, 0]], ys[ring[:, 1]]], axis=1) for ring in rings]
        found.append(PatchRegion(polygon, np.flatnonzero(of_patch == number)))
    return found


def _edges(starts: Floats, side: float) -> tuple[Floats, Array, Array]:
    """Return the places of all edges along an axis, and the numbers of each patch's two edges.

    Edges within `_SNAP` of each other are one.
    """
    places = np.concatenate([starts, starts + side])
    order = np.argsort(places, kind="stable")
    snap = min(_SNAP, side / 4)
    number = np.empty(len(places), np.int64)
    edges: list[float] = []
    for at in order.tolist():
        if not edges or places[at] - edges[-1] > snap:
            edges.append(float(places[at]))
        number[at] = len(edges) - 1
    return np.array(edges), number[: len(starts)], number[len(starts) :]
