"""Prediction with any segmentation model in tiles and several views (test-time augmentation).

A view is a resized or mirrored image; each is predicted as a whole or in tiles, and the predictions
of the views are fused (models/seg/inference/views.py, models/seg/inference/tiled.py).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from models.seg.inference.tiled import predict_tiled
from models.seg.inference.views import View, fuse_views, restored, transformed
from models.seg.protocol import SegModel
from structures import Instances, SegBatch

LARGEST_SCALE: Final = 16.0  # largest factor on the size of images (A256)


@dataclass(frozen=True)
class InferenceOptions:
    """Options of prediction in tiles and views; the default is one view of the whole image.

    Attributes:
        tile: longest side of a tile in pixels of the image as the network receives it, or None to
            predict whole images.
        overlap: smallest overlap of neighbouring tiles in pixels; None for a fifth of ``tile``.
            Should be as large as most objects.
        merge_iou: overlap from which predictions of two tiles are joined to one object, see
            ``models.ops.masks.merge.tile_groups``.
        tile_batch: number of tiles per forward pass.
        tile_max_dets: objects kept per image that is cut into tiles, best first; None for all
            objects of its tiles, each tile with up to the model's ``max_dets`` (A255).
        flip: also predict the image mirrored left to right.
        flip_vertical: also predict it mirrored top to bottom, and with ``flip`` mirrored both ways.
        scales: factors on the size of the image, in (0, 16]; each is predicted with every flip.
        fuse_iou: mask IoU from which predictions of two views are fused to one object.

    Raises:
        ValueError: a value is out of range.
    """

    tile: int | None = None
    overlap: int | None = None
    merge_iou: float = 0.5
    tile_batch: int = 4
    tile_max_dets: int | None = None
    flip: bool = False
    flip_vertical: bool = False
    scales: tuple[float, ...] = (1.0,)
    fuse_iou: float = 0.55

    def __post_init__(self) -> None:
        self._check_tiles()
        if not 0 < self.merge_iou <= 1:
            raise ValueError(f"merge_iou must be in (0, 1], got {self.merge_iou}")
        if not 0.5 <= self.fuse_iou <= 1:
            raise ValueError(
                f"fuse_iou must be in [0.5, 1], got {self.fuse_iou}: below one half the masks of "
                "an object may have no pixel in common"
            )
        unlike = sorted(set(self.scales)) == sorted(self.scales)
        if not self.scales or not unlike or not all(0 < s <= LARGEST_SCALE for s in self.scales):
            raise ValueError(
                f"scales must be one or more different factors in (0, {LARGEST_SCALE:g}], "
                f"got {self.scales}"
            )

    def _check_tiles(self) -> None:
        if self.tile is not None and self.tile < 2:
            raise ValueError(f"tile must be at least 2 pixels, got {self.tile}; None for no tiles")
        if self.overlap is not None:
            if self.tile is None:
                raise ValueError(f"an overlap of {self.overlap} needs tiles: give tile as well")
            if not 1 <= self.overlap <= self.tile // 2:
                raise ValueError(
                    f"overlap must be from 1 to half of the tile of {self.tile} pixels, "
                    f"got {self.overlap}"
                )
        if self.tile_batch < 1:
            raise ValueError(f"tile_batch must be at least 1, got {self.tile_batch}")
        if self.tile_max_dets is not None:
            if self.tile is None:
                raise ValueError(
                    f"tile_max_dets of {self.tile_max_dets} needs tiles: give tile as well; whole "
                    "images are limited by the model's max_dets"
                )
            if self.tile_max_dets < 1:
                raise ValueError(
                    f"tile_max_dets must be at least 1, got {self.tile_max_dets}; None for all"
                )

    @property
    def whole(self) -> bool:
        """True if images are predicted as a whole in a single view, as by the model itself."""
        return self.tile is None and self.views() == [View(1.0, False, False)]

    def views(self) -> list[View]:
        """Return the views of an image, beginning with the first scale without flip."""
        horizontal = (False, True) if self.flip else (False,)
        vertical = (False, True) if self.flip_vertical else (False,)
        return [View(s, h, v) for s in self.scales for v in vertical for h in horizontal]


def changed_options(
    options: InferenceOptions | None, changes: Mapping[str, Any]
) -> InferenceOptions | None:
    """Return options with some values replaced, or None if they equal the defaults.

    Args:
        options: options to change; None for the defaults.
        changes: new values by name. A new ``tile`` without ``overlap`` resets the overlap to its
            default, and removing tiles also removes ``tile_max_dets``.

    Raises:
        ValueError: the values are inconsistent.
    """
    renewed = {"overlap": None} if "tile" in changes else {}
    if "tile" in changes and changes["tile"] is None:
        renewed["tile_max_dets"] = None
    changed = dataclasses.replace(options or InferenceOptions(), **{**renewed, **changes})
    return None if changed.whole else changed


@torch.no_grad()
def predict(
    model: SegModel, batch: SegBatch, options: InferenceOptions | None = None
) -> list[Instances]:
    """Predict images in views and tiles; without options equal to ``model.predict``.

    Args:
        model: segmentation model; its ``max_dets`` limits each tile, or images without tiles.
        batch: images; targets are not read.
        options: options of tiles and views.

    Returns:
        Predictions of each image in its original frame, best score first. Boxes are clipped to the
        image.

    Raises:
        ValueError: predictions have to be merged and the model returns no masks, or a view is too
            large (`models.seg.inference.views.LARGEST_FRAME`).
    """
    found = model.predict(batch) if options is None else _predicted(model, batch, options)
    return [_inside(instances) for instances in found]


def _predicted(model: SegModel, batch: SegBatch, options: InferenceOptions) -> list[Instances]:
    views = options.views()
    found = []
    cut: set[int] = set()  # images that are cut into tiles in any view
    for view in views:
        seen = transformed(batch, view)
        if options.tile is None:
            predicted = model.predict(seen)
        else:
            overlap = max(1, options.tile // 5) if options.overlap is None else options.overlap
            predicted = predict_tiled(
                model, seen, options.tile, overlap, options.merge_iou, options.tile_batch
            )
            sides = enumerate(seen.sizes.tolist())
            cut |= {number for number, size in sides if max(size) > options.tile}
        found.append([restored(instances, view) for instances in predicted])
    if len(views) == 1:
        joined = found[0]
    else:
        joined = [
            fuse_views(list(image), options.fuse_iou, None if n in cut else model.max_dets)
            for n, image in enumerate(zip(*found, strict=True))
        ]
    return [_best(one, options.tile_max_dets) if n in cut else one for n, one in enumerate(joined)]


def _best(instances: Instances, count: int | None) -> Instances:
    """Return the first ``count`` objects, None for all; warn if some are dropped."""
    if count is None or len(instances) <= count:
        return instances
    warnings.warn(
        f"an image has more objects in its tiles than tile_max_dets of {count}; those with the "
        "lowest scores are dropped; raise the limit by model.init_args.inference.tile_max_dets or "
        "--tile-max-dets",
        stacklevel=2,
    )
    return instances.select(torch.arange(count, device=instances.scores.device))


def _inside(instances: Instances) -> Instances:
    """Clip boxes to the image, because rounding may have moved them beyond its borders (A257)."""
    height, width = instances.size
    columns = instances.boxes[:, 0::2].clamp(0, width)  # (K, 2)
    rows = instances.boxes[:, 1::2].clamp(0, height)
    return dataclasses.replace(instances, boxes=torch.stack([columns, rows], dim=2).flatten(1))
