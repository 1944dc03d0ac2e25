"""Scores of a slide's patches as objects for QuPath and as detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.wsi.heatmap_image import ScoreMap
from evaluation.wsi.regions import join_patches
from formats.slides.geojson import Polygon
from formats.slides.qupath import Colour, SlideObject, tiles

_COLOURS: tuple[Colour, ...] = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189))


class PlacedPatches(NamedTuple):
    """The patches of a slide.

    Attributes:
        coords: (N, 2) x and y of the top-left corners, in pixels of level 0.
        side: of a patch, in pixels of level 0.
    """

    coords: npt.NDArray[np.float64]
    side: float


class Region(NamedTuple):
    """A region of patches with high scores.

    Attributes:
        number: of its map.
        polygon: outline and holes, in pixels of level 0.
        patches: how many there are in it.
        peak: (x, y) of the centre of its highest patch.
        score: score of that patch.
        rank: rank of that patch in the bag, in [0, 1].
    """

    number: int
    polygon: Polygon
    patches: int
    peak: tuple[float, float]
    score: float
    rank: float


def regions_of(
    patches: PlacedPatches, maps: Sequence[ScoreMap], region_rank: float
) -> list[Region]:
    """Return the regions of the patches above a rank, for each map.

    Of scores that are evidence for and against, only patches with evidence for count (A652).
    """
    found = []
    for number, one in enumerate(maps):
        rank = one.ranks()
        chosen = np.flatnonzero((rank > region_rank) & ((one.values > 0) | (not one.signed)))
        for region in join_patches(patches.coords[chosen], patches.side):
            members = chosen[region.patches]
            best = members[one.values[members].argmax()]
            x, y = (patches.coords[best] + patches.side / 2).tolist()
            score, place = float(one.values[best]), float(rank[best])
            found.append(Region(number, region.polygon, len(members), (x, y), score, place))
    return found


def objects_of(
    patches: PlacedPatches, maps: Sequence[ScoreMap], regions: Sequence[Region]
) -> list[SlideObject]:
    """Return a tile for each patch with scores and ranks, and a locked annotation a region."""
    measured: dict[str, npt.NDArray[Any]] = {}
    for one in maps:
        measured |= {one.name: one.values, f"{one.name} rank": one.ranks()}
    annotations = [
        SlideObject(
            "annotation",
            [region.polygon],
            maps[region.number].name,
            _COLOURS[region.number % len(_COLOURS)],
            {f"highest {maps[region.number].name}": region.score, "patches": region.patches},
            locked=True,
        )
        for region in regions
    ]
    return [*tiles(patches.coords, patches.side, measured), *annotations]


def detections_of(
    regions: Sequence[Region], bag_probability: float
) -> list[tuple[float, float, float]]:
    """Return probability, x and y of the peak of each region.

    Scores compare the patches of one bag, so the probability is that of the bag, a slide or a
    patient, times the rank of the peak (A653).

    Args:
        regions: of one map of a binary task.
        bag_probability: probability of class 1.
    """
    return [(bag_probability * region.rank, *region.peak) for region in regions]
