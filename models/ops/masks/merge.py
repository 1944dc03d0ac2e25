"""Grouping of predictions that belong to one object, across tiles and across views of an image.

Both compare run-length masks of one class whose boxes overlap. Tiles show different parts of an
object, so two parts are compared in the area that both tiles cover; views show the same area, so
complete masks are compared.

Letters: N predictions, T tiles, V views.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.ops.boxes.pairs import overlapping_pairs
from structures.rle import RLEMasks, Size
from structures.rle_packed import areas_in, overlaps

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_BORDER = 2  # pixels; a mask this close to a tile's border counts as cut off by it


def tile_groups(
    masks: RLEMasks, scores: Floats, labels: Ints, tile: Ints, rectangles: Ints, threshold: float
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Number the objects that the predictions of overlapping tiles belong to.

    With R the strip that the tiles of a and b share, a and b are partners if

        |a & b| >= threshold x |(a | b) & R|   (IoU within the strip).

    Partners are joined pair by pair, in descending order of the lower score of a pair, unless the
    object would then have two predictions of one tile, since objects separated in a tile stay
    separate. A mask cut off by a tile's border has less overlap, so a mask that ends at a border
    inside the image, and whose object has no prediction in a neighbouring tile, joins the mask of
    that tile that covers most of it, if |a & b| >= threshold x |a & R| and if it scores at least
    half as well: it is a fragment (A240).

    Args:
        masks: N masks in the frame of the image.
        scores: (N,).
        labels: (N,), not negative.
        tile: (N,) in [0, T).
        rectangles: (T, 4) area of each tile, (x1, y1, x2, y2), half-open.
        threshold: threshold in (0, 1].

    Returns:
        (N,) int64 object numbers, from 0 without gaps, and (N,) bool, True for fragments.
    """
    boxes = masks.boxes().astype(np.float64)
    pairs = overlapping_pairs(boxes, labels)
    pairs = pairs[tile[pairs[:, 0]] != tile[pairs[:, 1]]]
    common = overlaps(masks, pairs)
    pairs, common = pairs[common > 0], common[common > 0]
    pairs = np.concatenate((pairs, pairs[:, ::-1]))  # in both directions
    common = np.concatenate((common, common))
    part, whole = pairs.T
    seen = areas_in(masks, part, rectangles[tile[whole]])
    union = seen + np.roll(seen, len(seen) // 2) - common
    partners = np.flatnonzero((common >= threshold * union) & (part < whole))
    weaker = np.minimum(scores[part], scores[whole])[partners]
    partners = partners[np.lexsort((-(common / union)[partners], -weaker))]
    group = _joined(pairs[partners], tile)
    covered = common >= threshold * seen
    alike = 2 * scores[part] >= scores[whole]
    known = group * len(rectangles) + tile
    sight = group[part] * len(rectangles) + tile[whole]  # the object as that tile should see it
    cut = _cut_off(boxes, rectangles[tile], masks.size)[part]
    rows = np.flatnonzero(cut & covered & alike & ~np.isin(sight, known))
    where = part[rows] * len(rectangles) + tile[whole[rows]]
    order = np.lexsort((-common[rows], where))  # the largest of each place comes first
    rows = rows[order][np.unique(where[order], return_index=True)[1]]
    fragment = np.zeros(len(masks), dtype=bool)
    fragment[part[rows]] = True
    edges = np.stack([group[part[rows]], group[whole[rows]]], axis=1)
    objects = _joined(edges, np.arange(group.max(initial=-1) + 1), apart=False)
    return objects[group], fragment


def _joined(pairs: Ints, tile: Ints, apart: bool = True) -> Ints:
    """Join pairs in order; with ``apart``, an object has at most one prediction per tile."""
    parent = list(range(tile.size))
    tiles: list[set[int]] = [{int(t)} for t in tile]

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = one = parent[parent[one]]
        return one

    for first, second in pairs.tolist():
        one, other = root(first), root(second)
        if one != other and (not apart or tiles[one].isdisjoint(tiles[other])):
            parent[other] = one
            tiles[one] |= tiles[other]
    roots = np.array([root(one) for one in range(tile.size)], dtype=np.int64)
    return np.asarray(np.unique(roots, return_inverse=True)[1], dtype=np.int64).reshape(-1)


def _cut_off(boxes: Floats, tiles: Ints, size: Size) -> npt.NDArray[np.bool_]:
    """Return (N,) bool, True if a box reaches a border of its tile inside the image."""
    height, width = size
    inner = np.stack(
        [tiles[:, 0] > 0, tiles[:, 1] > 0, tiles[:, 2] < width, tiles[:, 3] < height], axis=1
    )
    return np.asarray(((np.abs(boxes - tiles) <= _BORDER) & inner).any(axis=1))


def view_clusters(
    masks: RLEMasks, boxes: Floats, scores: Floats, labels: Ints, view: Ints, threshold: float
) -> Ints:
    """Number the objects found in several views of an image.

    Predictions are clustered greedily by score, as in weighted boxes fusion (Solovyev et al. 2021,
    arXiv 1910.13302, sec. 3), but by mask IoU: a prediction joins the object whose best prediction
    it overlaps most, if by at least ``threshold`` and if the object has no prediction of the same
    view; otherwise it starts a new object (A242).

    Args:
        masks: N masks.
        boxes: (N, 4); predictions with empty masks are compared by their boxes.
        scores: (N,); equal scores keep their order.
        labels: (N,), not negative.
        view: (N,) in [0, V).
        threshold: threshold in (0, 1].

    Returns:
        (N,) int64 object numbers from 0, in the order of their best predictions.
    """
    neighbours = _neighbours(masks, boxes, labels, view, threshold)
    cluster = np.full(len(masks), -1, dtype=np.int64)
    leads: set[int] = set()
    taken: list[set[int]] = []
    for one in np.argsort(-scores, kind="stable").tolist():
        for other in neighbours.get(one, ()):
            number = int(cluster[other])
            if other in leads and int(view[one]) not in taken[number]:
                break
        else:
            number = len(taken)
            leads.add(one)
            taken.append(set())
        cluster[one] = number
        taken[number].add(int(view[one]))
    return cluster


def _neighbours(
    masks: RLEMasks, boxes: Floats, labels: Ints, view: Ints, threshold: float
) -> dict[int, list[int]]:
    """Return the candidates that each prediction may join, largest overlap first."""
    areas = masks.areas()
    nothing = areas == 0
    extents = np.where(nothing[:, None], boxes, masks.boxes())
    pairs = overlapping_pairs(extents, 2 * labels + nothing)
    pairs = pairs[view[pairs[:, 0]] != view[pairs[:, 1]]]
    common = overlaps(masks, pairs).astype(np.float64)
    one, other = pairs.T
    union = areas[one] + areas[other] - common
    empty = nothing[one]
    common[empty], union[empty] = _box_overlaps(boxes[one[empty]], boxes[other[empty]])
    iou = common / union
    rows = np.flatnonzero(iou >= threshold)
    rows = np.concatenate((rows, rows + len(pairs)))
    both, iou = np.concatenate((pairs, pairs[:, ::-1])), np.concatenate((iou, iou))
    found: dict[int, list[int]] = {}
    for row in rows[np.lexsort((both[rows, 1], -iou[rows]))].tolist():
        found.setdefault(int(both[row, 0]), []).append(int(both[row, 1]))
    return found


def _box_overlaps(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Return the areas of intersection and union, pair by pair."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    common = np.maximum(high - low, 0).prod(axis=1)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(
        axis=1
    )
    return common, areas - common
