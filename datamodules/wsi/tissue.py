"""Which part of a slide is tissue.

Stained tissue is saturated and glass is not, so the threshold is that of Otsu (IEEE Trans. Systems,
Man, and Cybernetics 9, 1979) on the saturation of a small view of the slide. It is kept between a
floor, because Otsu's method divides any image in two, also one of glass alone, and a ceiling,
because on a slide full of tissue it divides pale tissue from dark. Pen marks are told from tissue
by the ratios of their optical densities: eosin and haematoxylin absorb green most (Ruifrok and
Johnston, Anal. Quant. Cytol. Histol. 23, 2001), and no ink but a red one does.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from formats.slides.overview import overview
from formats.slides.pyramid import SlideFile

_STRIP = 256  # rows of the view that are in floating point at the same time
_BRIGHT, _GREY = 150, 20  # of glass: least value, most saturation, both of 255
_LEAST_GLASS = 0.005  # part of the view that must be glass for its colour to be measured
_STRONG, _WEAK = 0.25, 0.08  # natural optical density of ink, and of its blurred border
_BLUISH, _BLACK = 1.2, 2.0  # density from which blue and any tissue next to ink lies under it


class TissueMask(NamedTuple):
    """Where the tissue of a slide is.

    Attributes:
        mask: (h, w) bool, True for tissue.
        scale: pixels of level 0 per pixel of the mask.
        origin: (x, y) at level 0 of the mask's top-left corner.
    """

    mask: NDArray[np.bool_]
    scale: float
    origin: tuple[int, int]


class Tissue(Protocol):
    """A method that finds tissue; a recipe names its class."""

    def __call__(self, slide: SlideFile, mpp: float) -> TissueMask:
        """Return the tissue of a slide.

        Args:
            slide: an open slide.
            mpp: micrometres per pixel of level 0.
        """
        ...


class OtsuTissue:
    """Tissue by its saturation, for slides stained with haematoxylin and eosin.

    Args:
        mpp: micrometres per pixel of the view on which tissue is looked for.
        floor: saturation in [0, 1] up to which a pixel is never tissue.
        ceiling: saturation in [0, 1] from which on a pixel is tissue.
        min_area_mm2: pieces of tissue that are smaller are left out.
        max_hole_mm2: holes in the tissue up to this size belong to it.
        pens: leave out pen marks. Set it to False for other stains, whose colours can be those of
            inks.
        min_pen_mm2: marks that are smaller stay, such as pigment or a cell's nucleus.

    Raises:
        ValueError: a size is not positive or negative, or floor and ceiling are not in order.
    """

    def __init__(
        self,
        *,
        mpp: float = 8.0,
        floor: float = 0.07,
        ceiling: float = 0.1,
        min_area_mm2: float = 0.02,
        max_hole_mm2: float = 0.01,
        pens: bool = True,
        min_pen_mm2: float = 0.02,
    ) -> None:
        if not mpp > 0:
            raise ValueError(f"mpp of the tissue's view must be positive, got {mpp}")
        if not 0 <= floor <= ceiling <= 1:
            raise ValueError(f"0 <= floor <= ceiling <= 1 must hold, got {floor} and {ceiling}")
        if min(min_area_mm2, max_hole_mm2, min_pen_mm2) < 0:
            raise ValueError(
                "min_area_mm2, max_hole_mm2 and min_pen_mm2 must not be negative, got "
                f"{min_area_mm2}, {max_hole_mm2} and {min_pen_mm2}"
            )
        self.mpp = mpp
        self.floor, self.ceiling = floor, ceiling
        self.min_area_mm2, self.max_hole_mm2 = min_area_mm2, max_hole_mm2
        self.pens, self.min_pen_mm2 = pens, min_pen_mm2

    def __call__(self, slide: SlideFile, mpp: float) -> TissueMask:
        """Return the tissue within the slide's bounds.

        Raises:
            UnreadableRegion: a part of the slide cannot be read.
        """
        view = overview(slide, mpp, self.mpp)
        side = view.scale * mpp  # micrometres
        per_mm2 = 1e6 / side**2
        image = cv2.medianBlur(view.image, 3)
        saturation, strong, weak = _colours(image, glass_colour(image))
        if not self.pens:
            strong[:], weak[:] = False, False
        pens = _marks(strong, weak, self.min_pen_mm2 * per_mm2, round(32 / side))
        threshold = float(np.clip(_otsu(saturation[~pens]), self.floor * 255, self.ceiling * 255))
        mask = (saturation > threshold) & ~strong & ~pens
        mask = _closed(mask, round(16 / side))
        mask = _without_small(mask, self.min_area_mm2 * per_mm2)
        mask = _filled(mask, self.max_hole_mm2 * per_mm2) & ~pens
        return TissueMask(mask, view.scale, view.origin)


def glass_colour(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the colour (3,) of bright pixels without colour, white if there are hardly any."""
    high, low = image.max(-1), image.min(-1)
    empty = (high > _BRIGHT) & ((high - low) * 255.0 < _GREY * high.astype(np.float32))
    if empty.mean() < _LEAST_GLASS:
        return np.full(3, 255, np.float32)
    return np.asarray(np.median(image[empty], axis=0), np.float32)


def _colours(
    image: NDArray[np.uint8], glass: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the saturation, of 255, and the pixels that are and that may be ink."""
    saturation = np.empty(image.shape[:2], np.uint8)
    strong, weak = np.empty(image.shape[:2], bool), np.empty(image.shape[:2], bool)
    for start in range(0, len(image), _STRIP):
        rows = slice(start, start + _STRIP)
        part = np.clip(image[rows] / glass, 1 / 255, 1)
        high = part.max(-1)
        vivid = (high - part.min(-1)) / high
        saturation[rows] = np.rint(255 * vivid)
        strong[rows], weak[rows] = _ink(-np.log(part), vivid)
    return saturation, strong, weak


def _ink(
    density: NDArray[np.floating], vivid: NDArray[np.floating]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where there is ink for certain, and what is ink where it is connected to that.

    With r and b the densities of red and blue relative to green, tissue has r < 1 and b < 0.8.
    Blue and green inks have r > 1.15, black ones r and b near 1, red ones b near 1, small r and a
    saturation that tissue does not reach.  # A504
    """
    green = np.maximum(density[..., 1], 0.02)
    r, b = density[..., 0] / green, density[..., 2] / green
    red = (r < 0.3) & (((b > 0.8) & (vivid > 0.6)) | ((b > 0.68) & (vivid > 0.8)))
    ink = (r > 1.15) | ((r > 0.8) & (b > 0.8)) | red
    dense = density.max(-1)
    under = ((r > 0.85) & (dense > _BLUISH)) | (dense > _BLACK)
    return ink & (dense > _STRONG), (ink & (dense > _WEAK)) | under


def _marks(
    strong: NDArray[np.bool_], weak: NDArray[np.bool_], area: float, margin: int
) -> NDArray[np.bool_]:
    """Return the pieces of possible ink with enough certain ink, and a margin around them."""
    labels, count = _pieces(weak)
    dense = np.bincount(labels[strong], minlength=count)
    kept = dense >= max(area, 1)
    kept[0] = False
    marks = kept[labels].astype(np.uint8)
    return np.asarray(cv2.dilate(marks, _disc(margin)), bool)


def _otsu(values: NDArray[np.uint8]) -> float:
    if not values.size:
        return 0.0
    return float(cv2.threshold(values.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)[0])


def _closed(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _disc(radius))
    return np.asarray(closed, bool)


def _without_small(mask: NDArray[np.bool_], area: float) -> NDArray[np.bool_]:
    labels, count = _pieces(mask)
    kept = np.bincount(labels.ravel(), minlength=count) >= area
    kept[0] = False
    return kept[labels]


def _filled(mask: NDArray[np.bool_], area: float) -> NDArray[np.bool_]:
    """Fill the holes up to an area; what touches the border is no hole."""
    labels, count = _pieces(~mask)
    hole = np.bincount(labels.ravel(), minlength=count) <= area
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        hole[border] = False
    hole[0] = True  # the tissue itself
    return hole[labels]


def _pieces(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return the number of each pixel's piece, 0 outside, and how many numbers there are."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return labels, count


def _disc(radius: int) -> NDArray[np.uint8]:
    size = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def tissue_share(
    tissue: TissueMask, coords: NDArray[np.integer], step: float
) -> NDArray[np.float64]:
    """Return how much of each patch is tissue.

    Args:
        tissue: the tissue.
        coords: (N, 2) x and y of the patches' top-left corners at level 0.
        step: side of a patch in pixels of level 0.

    Returns:
        (N,) in [0, 1]; pixels of the mask count by the part of them that is in the patch, and what
        is beyond the mask is no tissue.
    """
    height, width = tissue.mask.shape
    sums = cv2.integral(tissue.mask.astype(np.uint8))  # (h + 1, w + 1)
    start = (np.asarray(coords, np.float64) - tissue.origin) / tissue.scale
    side = step / tissue.scale
    (x0, y0), (x1, y1) = start.T, (start + side).T

    def above(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Tissue left of x and above y; linear in both between the corners of pixels."""
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        left = np.minimum(x.astype(np.int64), width - 1)
        top = np.minimum(y.astype(np.int64), height - 1)
        u, v = x - left, y - top
        upper = sums[top, left] * (1 - u) + sums[top, left + 1] * u
        lower = sums[top + 1, left] * (1 - u) + sums[top + 1, left + 1] * u
        return np.asarray(upper * (1 - v) + lower * v)

    area = above(x1, y1) - above(x0, y1) - above(x1, y0) + above(x0, y0)
    return np.clip(area / side**2, 0, 1)


def tissue_area(tissue: TissueMask, mpp: float) -> float:
    """Return the area of the tissue in square millimetres; mpp is that of level 0."""
    return float(tissue.mask.sum()) * (tissue.scale * mpp / 1000) ** 2
