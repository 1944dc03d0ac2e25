"""Vectorized operations on packed run-length masks: flips, shifts, overlaps, votes.

The pixels of all masks of a pack are numbered consecutively, so that arithmetic on intervals of
these numbers works on all masks together, without a loop and without a full-size mask.

Letters: K masks, S intervals, P pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from structures.rle import RLEMasks, Size

Ints = npt.NDArray[np.int64]
_CHUNK = 1 << 21  # intervals gathered in one go


class Intervals(NamedTuple):
    """Intervals of ones, sorted and disjoint: mask ``owner`` has the pixels [``start``, ``end``).

    Pixels are counted column by column. All are (S,) int64.
    """

    owner: Ints
    start: Ints
    end: Ints


class ColumnPieces(NamedTuple):
    """Intervals cut at the ends of columns: rows [``top``, ``bottom``) of ``column``.

    All are (S,) int64, sorted by owner, column and row.
    """

    owner: Ints
    column: Ints
    top: Ints
    bottom: Ints


def intervals(masks: RLEMasks) -> Intervals:
    """Return the intervals of ones of all masks."""
    owner = np.repeat(np.arange(len(masks)), np.diff(masks.offsets))
    edges = np.concatenate(([0], np.cumsum(masks.runs)))
    base = edges[masks.offsets[owner]]  # pixels of the preceding masks
    odd = (np.arange(owner.size) - masks.offsets[owner]) % 2 == 1
    ones = odd & (masks.runs > 0)
    return Intervals(owner[ones], (edges[:-1] - base)[ones], (edges[1:] - base)[ones])


def from_intervals(found: Intervals, count: int, size: Size) -> RLEMasks:
    """Pack intervals as run lengths; adjacent intervals are merged.

    Args:
        found: sorted and disjoint, owners in [0, count).
        count: number of masks, any of which may be empty.
        size: (height, width) of the image.
    """
    owner, start, end = found
    fresh = np.ones(owner.size, dtype=bool)
    fresh[1:] = (owner[1:] != owner[:-1]) | (start[1:] != end[:-1])
    last = np.append(fresh[1:], True)[: owner.size]
    owner, start, end = owner[fresh], start[fresh], end[last]
    number = np.bincount(owner, minlength=count)
    first = np.concatenate(([0], np.cumsum(2 * number + 2)))  # each mask: 0, its edges, the end
    edges = np.zeros(first[-1], dtype=np.int64)
    place = first[owner] + 1 + 2 * (np.arange(owner.size) - (np.cumsum(number) - number)[owner])
    edges[place], edges[place + 1] = start, end
    edges[first[1:] - 1] = size[0] * size[1]
    runs = np.diff(edges)
    keep = np.ones(runs.size, dtype=bool)
    keep[first[1:-1] - 1] = False  # differences across two masks
    tail = first[1:] - 2
    full = (number > 0) & (runs[tail] == 0)
    keep[tail[full]] = False
    offsets = np.concatenate(([0], np.cumsum(2 * number + 1 - full)))
    return RLEMasks(runs[keep], offsets, (int(size[0]), int(size[1])))


def column_pieces(masks: RLEMasks) -> ColumnPieces:
    """Return the intervals of ones of all masks, cut at the ends of columns."""
    height = masks.size[0]
    owner, start, end = intervals(masks)
    first = start // max(height, 1)
    number = (end - 1) // max(height, 1) - first + 1
    which = np.repeat(np.arange(owner.size), number)
    column = first[which] + np.arange(which.size) - (np.cumsum(number) - number)[which]
    top = np.maximum(start[which] - column * height, 0)
    bottom = np.minimum(end[which] - column * height, height)
    return ColumnPieces(owner[which], column, top, bottom)


def _assembled(pieces: ColumnPieces, count: int, size: Size) -> RLEMasks:
    base = pieces.column * size[0]
    found = Intervals(pieces.owner, base + pieces.top, base + pieces.bottom)
    return from_intervals(found, count, size)


def concatenate(packs: Sequence[RLEMasks], size: Size) -> RLEMasks:
    """Join packs of masks of one image.

    Raises:
        ValueError: a pack has another size.
    """
    wrong = [pack.size for pack in packs if tuple(pack.size) != tuple(size)]
    if wrong:
        raise ValueError(f"cannot join masks of size {wrong[0]} with masks of size {size}")
    lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(pack.offsets) for pack in packs)])
    runs = np.concatenate([np.zeros(0, np.int64), *(pack.runs for pack in packs)])
    return RLEMasks(runs, np.cumsum(lengths), (int(size[0]), int(size[1])))


def flip(masks: RLEMasks, direction: Literal["horizontal", "vertical"]) -> RLEMasks:
    """Mirror all masks: ``horizontal`` swaps left and right, ``vertical`` top and bottom.

    >>> from structures import rle
    >>> flip(RLEMasks.from_runs([np.array([0, 1, 5])], (2, 3)), "horizontal").runs.tolist()
    [4, 1, 1]
    """
    owner, column, top, bottom = column_pieces(masks)
    height, width = masks.size
    if direction == "horizontal":
        column = width - 1 - column
    else:
        top, bottom = height - bottom, height - top
    order = np.lexsort((top, column, owner))
    turned = ColumnPieces(owner[order], column[order], top[order], bottom[order])
    return _assembled(turned, len(masks), masks.size)


def place(masks: RLEMasks, top: int, left: int, size: Size) -> RLEMasks:
    """Place the masks of a crop in the full image.

    Args:
        masks: masks of the crop.
        top: row of the crop's first pixel; may be negative.
        left: column of the crop's first pixel; may be negative.
        size: (height, width) of the full image; pixels outside it are cut off.
    """
    owner, column, first, last = column_pieces(masks)
    column = column + left
    first, last = np.maximum(first + top, 0), np.minimum(last + top, size[0])
    inside = (column >= 0) & (column < size[1]) & (first < last)
    moved = ColumnPieces(owner[inside], column[inside], first[inside], last[inside])
    return _assembled(moved, len(masks), size)


def without(masks: RLEMasks, rectangles: Ints) -> RLEMasks:
    """Remove a rectangle from each mask.

    Args:
        masks: K masks.
        rectangles: (K, 4), (x1, y1, x2, y2), half-open; an empty rectangle removes nothing.
    """
    pieces = column_pieces(masks)
    owner, column, top, bottom = pieces
    left, above, right, below = rectangles[owner].T
    hit = (column >= left) & (column < right) & (top < below) & (bottom > above) & (above < below)
    rest = [
        ColumnPieces(owner, column, top, np.where(hit, np.minimum(bottom, above), bottom)),
        ColumnPieces(owner[hit], column[hit], np.maximum(top, below)[hit], bottom[hit]),
    ]
    owner, column, top, bottom = (np.concatenate(fields) for fields in zip(*rest, strict=True))
    order = np.lexsort((top, column, owner))
    order = order[top[order] < bottom[order]]
    kept = ColumnPieces(owner[order], column[order], top[order], bottom[order])
    return _assembled(kept, len(masks), masks.size)


def areas_in(masks: RLEMasks, positions: Ints, rectangles: Ints) -> Ints:
    """Return the number of pixels of a mask inside a rectangle, for each pair.

    Args:
        masks: K masks.
        positions: (P,) in [0, K).
        rectangles: (P, 4), (x1, y1, x2, y2), half-open.

    Returns:
        (P,) int64.
    """
    owner, column, top, bottom = column_pieces(masks)
    number = np.bincount(owner, minlength=len(masks))
    areas = np.zeros(positions.size, dtype=np.int64)
    for part in _chunks(number[positions]):
        pair, piece = _gather(number, positions[part])
        left, above, right, below = rectangles[part][pair].T
        within = (column[piece] >= left) & (column[piece] < right)
        rows = np.minimum(bottom[piece], below) - np.maximum(top[piece], above)
        areas[part] = _sums(pair, np.where(within, np.maximum(rows, 0), 0), areas[part].size)
    return areas


def overlaps(masks: RLEMasks, pairs: Ints) -> Ints:
    """Return the number of pixels that two masks have in common, for each pair.

    Args:
        masks: K masks.
        pairs: (P, 2) in [0, K).

    Returns:
        (P,) int64.
    """
    owner, start, end = intervals(masks)
    number = np.bincount(owner, minlength=len(masks))
    stride = masks.size[0] * masks.size[1]
    line = owner * stride
    starts, ends = line + start, line + end
    covered = np.concatenate(([0], np.cumsum(end - start)))

    def up_to(pixel: Ints) -> Ints:
        """Return the number of ones before a pixel, over all masks."""
        before = np.searchsorted(starts, pixel, side="right")
        beyond = np.where(before > 0, ends[before - 1] - pixel, 0)
        return np.asarray(covered[before] - np.maximum(beyond, 0))

    areas = np.zeros(len(pairs), dtype=np.int64)
    for part in _chunks(number[pairs[:, 0]]):
        pair, piece = _gather(number, pairs[part, 0])
        base = pairs[part, 1][pair] * stride
        common = up_to(base + end[piece]) - up_to(base + start[piece])
        areas[part] = _sums(pair, common, areas[part].size)
    return areas


def combine(masks: RLEMasks, groups: Ints, needed: Ints, weights: Ints | None = None) -> RLEMasks:
    """Combine the masks of each group by a vote on every pixel.

    Args:
        masks: K masks.
        groups: (K,) in [0, G).
        needed: (G,) at least 1; a pixel is foreground if the masks that have it weigh at least
            this much. 1 with unit weights is the union.
        weights: (K,) at least 1, or None for weights of 1.

    Returns:
        G masks; empty for a group without masks.
    """
    owner, start, end = intervals(masks)
    stride = masks.size[0] * masks.size[1] + 1  # keeps the groups apart
    line = groups[owner] * stride
    votes = np.ones(owner.size) if weights is None else weights[owner].astype(np.float64)
    edges = np.concatenate((line + start, line + end))
    unique, inverse = np.unique(edges, return_inverse=True)
    change = np.bincount(inverse, np.concatenate((votes, -votes)), minlength=unique.size)
    depth = np.cumsum(change)  # exact, as all values are integers below 2^53
    inside = depth >= needed[np.minimum(unique // stride, needed.size - 1)]
    turns = np.diff(np.concatenate(([False], inside)).astype(np.int8))
    first, last = unique[turns > 0], unique[turns < 0]
    group = first // stride
    return from_intervals(
        Intervals(group, first - group * stride, last - group * stride), needed.size, masks.size
    )


def _gather(number: Ints, positions: Ints) -> tuple[Ints, Ints]:
    """Return the index of the pair and of the piece for all pieces of masks at ``positions``."""
    first = np.cumsum(number) - number
    length = number[positions]
    pair = np.repeat(np.arange(positions.size), length)
    within = np.arange(pair.size) - (np.cumsum(length) - length)[pair]
    return pair, first[positions][pair] + within


def _chunks(lengths: Ints) -> list[slice]:
    """Split pairs into chunks so that the number of intervals gathered per chunk is bounded."""
    total = np.cumsum(lengths)
    cuts = np.flatnonzero(np.diff(total // _CHUNK)) + 1
    bounds = [0, *cuts.tolist(), lengths.size]
    return [slice(a, b) for a, b in itertools.pairwise(bounds) if a < b]


def _sums(pair: Ints, values: Ints, count: int) -> Ints:
    return np.bincount(pair, values, minlength=count).astype(np.int64)
