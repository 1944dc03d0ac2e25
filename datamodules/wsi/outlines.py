"""Outlines of tissue for QuPath, and outlines that were corrected there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.wsi.tissue import TissueMask
from formats.slides.geojson import Polygon
from formats.slides.pyramid import SlideFile
from formats.slides.qupath import SlideObject, read_objects
from formats.slides.rings import fill_polygons, mask_polygons

_MPP = 8.0  # of the masks, as of the view on which tissue is found
_IGNORED = "Ignore"  # begin of the names of QuPath's classes of what is left out


def tissue_objects(tissue: TissueMask) -> list[SlideObject]:
    """Return an annotation for each piece of tissue, in pixels of level 0."""
    return [
        SlideObject(
            "annotation",
            [[ring * tissue.scale + tissue.origin for ring in polygon]],
            "Tissue",
            (0, 150, 0),
        )
        for polygon in mask_polygons(tissue.mask)
    ]


def outlined_tissue(path: Path, slide: SlideFile, mpp: float) -> TissueMask:
    """Return the tissue of a slide from a file of outlines.

    What lies in an annotation is tissue, except in those whose class begins with ``Ignore``. Other
    objects, such as tiles, do not count.  # A656

    Args:
        path: GeoJSON as QuPath exports it.
        slide: the open slide.
        mpp: micrometres per pixel of level 0.

    Raises:
        ValueError: the file cannot be read.
        OSError: there is no such file.
    """
    x, y, width, height = slide.bounds
    scale = max(_MPP, mpp) / mpp
    size = (max(1, round(height / scale)), max(1, round(width / scale)))
    kept: list[Polygon] = []
    ignored: list[Polygon] = []
    for one in read_objects(path):  # in pixels from the corner of the bounds
        if one.kind == "annotation":
            chosen = ignored if one.name.startswith(_IGNORED) else kept
            chosen += [[ring / scale for ring in polygon] for polygon in one.polygons]
    mask = fill_polygons(kept, size) & ~fill_polygons(ignored, size)
    return TissueMask(np.ascontiguousarray(mask), scale, (x, y))
