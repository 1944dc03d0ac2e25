"""What a stain is fitted on: the colour of a slide's glass and a fixed sample of its tissue."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from datamodules.sampling.keys import keyed_generator
from datamodules.wsi.tissue import TissueMask, glass_colour
from formats.images import read_rgb
from formats.slides.overview import overview
from formats.slides.pyramid import SlideFile
from formats.slides.resolution import PatchReader

_PURPOSE = 82
_PATCHES, _PIXELS = 64, 2048  # most patches, and pixels of each  # A686
_VIEW = 8.0  # micrometres per pixel of the view on which the glass is looked for
_NEAR_UM, _FAR_UM = 40.0, 400.0  # from the tissue, where its glass is  # A681
_IMAGE_PIXELS = 1 << 20  # most pixels of an image that is a reference, about
_LEAST_GLASS = 100  # pixels of the view

Image = npt.NDArray[np.uint8]


class StainSample(NamedTuple):
    """A sample of a slide's tissue.

    Attributes:
        pixels: (n, 3) RGB.
        glass: (3,) colour of the glass beside the tissue.
    """

    pixels: Image
    glass: npt.NDArray[np.floating[Any]]


def sample_tissue(
    slide: SlideFile,
    slide_mpp: float,
    reader: PatchReader,
    coords: npt.NDArray[np.int64],
    tissue: TissueMask,
    fingerprint: str,
) -> StainSample:
    """Return pixels of tissue out of some of a slide's patches, drawn with its fingerprint.

    They depend on the slide, its tissue and the patches alone.

    Args:
        slide: an open slide.
        slide_mpp: micrometres per pixel of level 0.
        reader: reads its patches.
        coords: (P, 2) level-0 pixels (x, y) of all patches.
        tissue: its tissue; pixels elsewhere, such as ink and glass, do not count.
        fingerprint: hash of the slide's file, hexadecimal digits.

    Raises:
        UnreadableRegion: a part of the slide is broken.
    """
    rng = keyed_generator(_PURPOSE, int(fingerprint, 16))
    chosen = np.sort(rng.permutation(len(coords))[:_PATCHES])
    within = (np.arange(reader.patch_px) + 0.5) * (reader.step / reader.patch_px)
    found = []
    for x, y in coords[chosen].tolist():
        places = np.flatnonzero(_inside(tissue, x + within, y + within))
        places = places[np.linspace(0, len(places) - 1, min(len(places), _PIXELS)).astype(int)]
        found.append(reader.read(x, y).reshape(-1, 3)[places])
    pixels = np.concatenate(found) if found else np.zeros((0, 3), np.uint8)
    return StainSample(pixels, _glass_beside(slide, slide_mpp, tissue))


def _inside(tissue: TissueMask, x: Any, y: Any) -> npt.NDArray[np.bool_]:
    """Return (y, x) whether places at level 0 are tissue."""
    height, width = tissue.mask.shape
    columns = np.floor((x - tissue.origin[0]) / tissue.scale).astype(int)
    rows = np.floor((y - tissue.origin[1]) / tissue.scale).astype(int)
    known = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    return np.asarray(tissue.mask[rows[:, None], columns] & known)


def _glass_beside(
    slide: SlideFile, slide_mpp: float, tissue: TissueMask
) -> npt.NDArray[np.float32]:
    """Return the colour of the glass around the tissue; white if there is none on the slide.

    Scanners fill what they have not scanned with white, so that it is looked for near the tissue.
    """
    view = overview(slide, slide_mpp, _VIEW)
    height, width = view.image.shape[:2]
    mask = cv2.resize(
        tissue.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    side = view.scale * slide_mpp

    def grown(micrometres: float) -> npt.NDArray[np.bool_]:
        size = 2 * round(micrometres / side) + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        return np.asarray(cv2.dilate(mask, disc), bool)

    outside = ~grown(_NEAR_UM)
    beside = outside & grown(_FAR_UM)
    chosen = beside if beside.sum() >= _LEAST_GLASS else outside
    return glass_colour(view.image[chosen]) if chosen.any() else np.full(3, 255, np.float32)


def read_reference(
    source: Mapping[str, Any] | str | None,
    built_in: Mapping[str, Any],
    fit: Callable[[StainSample], dict[str, Any]],
) -> dict[str, Any]:
    """Return the fitted values of a reference.

    Args:
        source: the values, a JSON file of them, a feature file that has them, or an image; None for
            those built in.
        built_in: values with the names that are needed.
        fit: fits a sample of an image.

    Raises:
        ValueError: there is no such file, it cannot be read, or a value is missing or no number.
    """
    if source is None:
        return dict(built_in)
    if isinstance(source, Mapping):
        return _checked("reference", source, built_in)
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name an image or a JSON file by stain.reference")
    try:
        if path.suffix.lower() == ".json":
            return _checked(str(path), json.loads(path.read_text("utf-8")), built_in)
        if path.suffix.lower() == ".h5":
            return _checked(str(path), json.loads(_attribute(path)), built_in)
        return fit(_sample_of_image(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as a reference of stains ({error})") from None


def _attribute(path: Path) -> str:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        return str(file.attrs.get("stain", "null"))


def _checked(name: str, values: Any, built_in: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {key: np.shape(value) for key, value in built_in.items()}
    found = values if isinstance(values, Mapping) else {}
    for key, shape in wanted.items():
        try:
            array = np.asarray(found.get(key), float)
        except (TypeError, ValueError):
            array = np.zeros(0)
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(
                f"{name}: {key} is {found.get(key)!r}, not {shape[0]} numbers; values of a "
                f"reference are {', '.join(wanted)}, as the attribute stain of a file has them"
            )
    return {key: np.asarray(found[key], float).tolist() for key in wanted}


def _sample_of_image(path: Path) -> StainSample:
    pixels = read_rgb(path).reshape(-1, 3)
    return StainSample(pixels[:: 1 + len(pixels) // _IMAGE_PIXELS], glass_colour(pixels))
