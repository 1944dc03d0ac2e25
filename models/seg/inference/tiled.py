"""Prediction of large images in overlapping tiles, merged by mask.

Tiles are cut from the image as the network receives it, and each is predicted in its own part of
the original image, so masks have the original resolution. Predictions of one object in several
tiles are joined by ``models.ops.masks.merge.tile_groups``: the object has the best score and, in
the area of the tile of the best prediction, its mask; in the remaining area that of the next best,
and so on; the box is enlarged accordingly (A241). All masks are run-length encoded; no full-size
mask is created.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from models.ops.masks.merge import tile_groups
from models.seg.protocol import SegModel
from structures import Instances, SegBatch
from structures.rle import RLEMasks
from structures.rle_packed import combine, concatenate, place, without

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_SNAP = 8  # tiles of at least this many units are cut at whole pixels of both images


class Span(NamedTuple):
    """Extent of a tile along one axis, [``start``, ``stop``) in pixels of the network's image.

    [``first``, ``last``) is the same extent in pixels of the original image.
    """

    start: int
    stop: int
    first: int
    last: int


class Tile(NamedTuple):
    """Tile of an image."""

    rows: Span
    columns: Span


def spans(length: int, original: int, tile: int, overlap: int) -> list[Span]:
    """Divide one axis of an image into evenly spaced tiles of equal length (A245).

    Args:
        length: pixels of the image as the network receives it.
        original: pixels of the original image.
        tile: largest length of a tile.
        overlap: smallest overlap of neighbouring tiles; at most half of ``tile``.

    Returns:
        Tiles in order; the first begins and the last ends with the image. If the ratio of the two
        lengths is a fraction of small numbers, tiles begin and end at whole pixels of both images;
        otherwise a tile is shifted by up to half a pixel of the original (A244).
    """
    if length <= tile:
        return [Span(0, length, 0, original)]
    unit = length // math.gcd(length, original)
    if unit * _SNAP > tile:
        unit = 1
    tile, overlap = tile // unit * unit, -(-overlap // unit) * unit
    count = -(-(length - overlap) // (tile - overlap))
    free = (length - tile) // unit
    found = []
    for number in range(count):
        start = number * free // (count - 1) * unit
        first, last = (_nearest(edge * original, length) for edge in (start, start + tile))
        first = min(first, original - 1)
        found.append(Span(start, start + tile, first, max(last, first + 1)))
    return found


def _nearest(dividend: int, divisor: int) -> int:
    return (2 * dividend + divisor) // (2 * divisor)


def predict_tiled(
    model: SegModel, batch: SegBatch, tile: int, overlap: int, merge_iou: float, tile_batch: int
) -> list[Instances]:
    """Predict images in tiles.

    Args:
        model: segmentation model.
        batch: images; an image that fits into one tile is predicted as a whole.
        tile: longest side of a tile in pixels of ``batch.images``.
        overlap: smallest overlap of neighbouring tiles in pixels.
        merge_iou: see ``tile_groups``.
        tile_batch: number of tiles per forward pass.

    Returns:
        Predictions in the original frame, best first. ``model.max_dets`` limits each tile; all
        objects of the tiles of an image are kept.

    Raises:
        ValueError: the model returns no masks, and an image has several tiles.
    """
    sizes, originals = batch.sizes.tolist(), batch.original_sizes.tolist()
    if all(max(size) <= tile for size in sizes):
        return model.predict(batch)
    plans = [
        [Tile(r, c) for r in vertical for c in horizontal]
        for vertical, horizontal in (
            [spans(*axis, tile, overlap) for axis in zip(size, original, strict=True)]
            for size, original in zip(sizes, originals, strict=True)
        )
    ]
    found = _predictions(model, batch, plans, tile_batch)
    return [
        merge_tiles(parts, plan, tuple(original), merge_iou)
        for parts, plan, original in zip(found, plans, originals, strict=True)
    ]


def _predictions(
    model: SegModel, batch: SegBatch, plans: Sequence[Sequence[Tile]], tile_batch: int
) -> list[list[Instances]]:
    """Predict the tiles of all images, batching tiles of equal shape."""
    shapes: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for image, plan in enumerate(plans):
        for number, (rows, columns) in enumerate(plan):
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            shapes.setdefault(shape, []).append((image, number))
    found: dict[tuple[int, int], Instances] = {}
    for jobs in shapes.values():
        for start in range(0, len(jobs), tile_batch):
            some = jobs[start : start + tile_batch]
            tiles = _cut(batch, [(image, plans[image][number]) for image, number in some])
            found.update(zip(some, model.predict(tiles), strict=True))
    return [[found[p, n] for n in range(len(plan))] for p, plan in enumerate(plans)]


def _cut(batch: SegBatch, tiles: Sequence[tuple[int, Tile]]) -> SegBatch:
    """Return tiles of equal size as a batch without targets."""
    images = torch.stack(
        [
            batch.images[image, :, rows.start : rows.stop, columns.start : columns.stop]
            for image, (rows, columns) in tiles
        ]
    )
    height, width = images.shape[-2:]
    originals = [[rows.last - rows.first, cols.last - cols.first] for _, (rows, cols) in tiles]
    empty = batch.boxes.new_zeros(0, 4)
    return SegBatch(
        images=images,
        sizes=batch.sizes.new_tensor([[height, width]] * len(tiles)),
        boxes=empty,
        labels=batch.labels[:0],
        masks=batch.masks.new_zeros(0, height, width),
        counts=batch.counts.new_zeros(len(tiles)),
        crowd=batch.crowd[:0],
        index=batch.index[[image for image, _ in tiles]],
        original_sizes=batch.original_sizes.new_tensor(originals),
    )


def merge_tiles(
    parts: Sequence[Instances],
    tiles: Sequence[Tile],
    size: tuple[int, int],
    merge_iou: float,
) -> Instances:
    """Join the predictions of an image's tiles.

    Args:
        parts: predictions of each tile, in the frame of its part of the original image.
        tiles: positions of the tiles.
        size: (height, width) of the original image.
        merge_iou: see ``tile_groups``.

    Returns:
        Objects in the frame of the original image, best score first, with label and mask quality
        of the prediction with the best score.

    Raises:
        ValueError: predictions have no masks, and there are several tiles.
    """
    if len(tiles) == 1:
        return parts[0]
    packs, boxes = [], []
    for part, (rows, columns) in zip(parts, tiles, strict=True):
        if part.masks is None:
            raise ValueError(
                "tiles are merged by masks and these predictions have none; predict whole images "
                "(without tile)"
            )
        packs.append(place(part.masks, rows.first, columns.first, size))
        boxes.append(part.boxes + part.boxes.new_tensor([columns.first, rows.first] * 2))
    whole = Instances(
        boxes=torch.cat(boxes),
        scores=torch.cat([part.scores for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        size=size,
        masks=concatenate(packs, size),
        quality=_joined_quality(parts),
    )
    tile = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    rectangles = np.array([[c.first, r.first, c.last, r.last] for r, c in tiles], dtype=np.int64)
    return _merged(whole, tile, rectangles, merge_iou)


def _joined_quality(parts: Sequence[Instances]) -> torch.Tensor | None:
    known = [part.quality for part in parts if part.quality is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def _merged(whole: Instances, tile: Ints, rectangles: Ints, merge_iou: float) -> Instances:
    assert whole.masks is not None
    labels = whole.labels.cpu().numpy()
    scores = whole.scores.cpu().double().numpy()
    group, fragment = tile_groups(whole.masks, scores, labels, tile, rectangles, merge_iou)
    count = int(group.max(initial=-1)) + 1
    ranked = np.lexsort((-scores, fragment))  # fragments last, regardless of their score
    own = _beyond_better_tiles(whole.masks, group, ranked, tile, rectangles)
    masks = combine(own, group, np.ones(count, dtype=np.int64))
    hulls = _hulls(whole.boxes.cpu().double().numpy(), own, group, ranked)
    order = np.argsort(-scores, kind="stable")
    best = np.unique(group[order], return_index=True)[1]  # best prediction of each object
    kept = order[np.sort(best)]
    chosen = torch.from_numpy(kept).to(whole.scores.device)
    return Instances(
        boxes=torch.from_numpy(hulls[group[kept]]).to(whole.boxes),
        scores=whole.scores[chosen],
        labels=whole.labels[chosen],
        size=whole.size,
        masks=masks.select(group[kept].tolist()),
        quality=None if whole.quality is None else whole.quality[chosen],
    )


def _hulls(boxes: Floats, own: RLEMasks, group: Ints, ranked: Ints) -> Floats:
    """Return the hull of each object's best box and of the parts that others add to its mask."""
    extents = own.boxes().astype(np.float64)
    adds = own.areas() > 0
    first = ranked[np.unique(group[ranked], return_index=True)[1]]
    extents[first], adds[first] = boxes[first], True
    hulls = boxes[first]
    np.minimum.at(hulls[:, :2], group[adds], extents[adds, :2])
    np.maximum.at(hulls[:, 2:], group[adds], extents[adds, 2:])
    return hulls


def _beyond_better_tiles(
    masks: RLEMasks, group: Ints, order: Ints, tile: Ints, rectangles: Ints
) -> RLEMasks:
    """Remove from each mask the areas of tiles with better predictions of the same object."""
    boxes = masks.boxes()
    ranks: dict[int, dict[int, int]] = {}  # tiles of each object, ranked by best prediction
    for one in order.tolist():
        tiles = ranks.setdefault(int(group[one]), {})
        tiles.setdefault(int(tile[one]), len(tiles))
    found: dict[int, list[Ints]] = {}  # areas to remove from each mask
    for one in range(len(masks)):
        tiles = ranks[int(group[one])]
        better = [rectangles[t] for t, rank in tiles.items() if rank < tiles[int(tile[one])]]
        found[one] = [rectangle for rectangle in better if _meet(rectangle, boxes[one])]
    for step in range(max((len(reach) for reach in found.values()), default=0)):
        rectangle = np.zeros((len(masks), 4), dtype=np.int64)
        for one, reach in found.items():
            if step < len(reach):
                rectangle[one] = reach[step]
        masks = without(masks, rectangle)
    return masks


def _meet(rectangle: Ints, box: npt.NDArray[np.float32]) -> bool:
    return bool((np.maximum(rectangle[:2], box[:2]) < np.minimum(rectangle[2:], box[2:])).all())
