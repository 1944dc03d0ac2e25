"""Pixels of a synthetic section under a scanner, by the law of Beer and Lambert.

Two planes hold the amounts h and e of hematoxylin and eosin in steps of 0.01. A pixel is

    RGB = glass * exp(-(h H + e E)),    H, E: optical densities of the stains in R, G, B

(Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution", 2001),
looked up in a table of all pairs. Fibres are a texture that the section's flow bends; nuclei are
stamps that are drawn once for each resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datamodules.wsi.synthetic_shapes import CELL_UM, Points
from datamodules.wsi.synthetic_textures import REACH_UM, TEXTURE, Pixels, nucleus_stamps, textures
from datamodules.wsi.synthetic_tissue import ORIENTATIONS, SHAPES, Section

_STEP: Final = 0.01  # amount of stain of one unit of a plane
_MARGIN, _COARSE = 16, 8  # pixels around a block; pixels between the values of a field
_PENS: Final = ((40, 70, 170), (20, 120, 80), (45, 42, 48))  # light that the ink lets through


@dataclass(frozen=True)
class Scanner:
    """How a scanner shows a slide.

    Attributes:
        name: its name in the table.
        mpp: micrometres per pixel of level 0.
        factors: reduction from each level to the next.
        glass: RGB without tissue.
        hematoxylin: optical density of one unit of the stain in R, G, B.
        eosin: the same of eosin.
    """

    name: str
    mpp: float
    factors: tuple[int, ...]
    glass: tuple[int, int, int]
    hematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]


SCANNERS: Final = (
    Scanner("north", 0.25, (2, 4, 4), (243, 242, 244), (0.68, 0.72, 0.33), (0.13, 0.92, 0.36)),
    Scanner("east", 0.363, (4, 4), (238, 239, 236), (0.60, 0.76, 0.36), (0.19, 0.88, 0.47)),
    Scanner("west", 0.5, (4, 4), (248, 245, 249), (0.76, 0.70, 0.28), (0.10, 0.84, 0.30)),
)


class SectionPainter:
    """Draws blocks of a section.

    Args:
        section: what is drawn.
        scanner: resolution and colours.
        stains: factors of hematoxylin and eosin of this slide.
        ink: number of the pen.
    """

    def __init__(
        self, section: Section, scanner: Scanner, stains: tuple[float, float] = (1, 1), ink: int = 0
    ) -> None:
        self.section, self.scanner = section, scanner
        self.size = round(section.side_um / scanner.mpp)
        self._colours = _colour_table(scanner, stains)
        self._stamps = nucleus_stamps(scanner.mpp)
        self._fibres, self._grain = textures(scanner.mpp)
        self._ink = np.array(_PENS[ink % len(_PENS)], np.float32) / 255
        self._rows = section.nuclei.places[:, 1] / scanner.mpp
        self._boxes = np.array([[*g.outer.min(0), *g.outer.max(0)] for g in section.glands])

    def block(self, x: int, y: int, width: int, height: int) -> Pixels | None:
        """Return RGB (height, width, 3) of a block of level 0; None if it is glass."""
        import cv2

        high = height + 2 * _MARGIN + -height % _COARSE
        wide = width + 2 * _MARGIN + -width % _COARSE
        left, top = x - _MARGIN, y - _MARGIN
        tissue = self._field(self.section.tissue, left, top, wide, high)
        pens = [pen for pen in self.section.pens if self._near(pen, x, y, width, height)]
        if tissue.max() < -25 and not pens:
            return None
        h, e = self._planes(tissue, left, top)
        inner = slice(_MARGIN, _MARGIN + height), slice(_MARGIN, _MARGIN + width)
        both = (h[inner].astype(np.uint16) << 8) | e[inner]
        rgba = self._colours.take(both, mode="clip").view(np.uint8).reshape(height, width, 4)
        rgb: Pixels = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
        for pen in pens:
            self._stroke(rgb, pen, x, y)
        return rgb

    def _field(self, field: Any, left: int, top: int, wide: int, high: int) -> Any:
        """Return a field at every `_COARSE`-th pixel of a block."""
        import cv2

        scale = self.scanner.mpp / CELL_UM
        step = scale * _COARSE
        middle = (_COARSE / 2) * scale - 0.5
        matrix = np.array(
            [[step, 0, left * scale + middle], [0, step, top * scale + middle]], np.float64
        )
        size = (wide // _COARSE, high // _COARSE)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(field, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def _planes(self, tissue: Any, left: int, top: int) -> tuple[Pixels, Pixels]:
        """Return the amounts of hematoxylin and eosin of a block with its margin."""
        import cv2

        high, wide = tissue.shape[0] * _COARSE, tissue.shape[1] * _COARSE
        size = (wide, high)
        section = self.section

        def field(values: Any) -> Any:
            return self._field(values, left, top, wide, high)

        rows, columns = np.mgrid[0:high:_COARSE, 0:wide:_COARSE].astype(np.float32)
        start = left % TEXTURE + 4096, top % TEXTURE + 4096
        u = columns + (start[0] + 3.5) + field(section.flow[0]) / self.scanner.mpp
        v = rows + (start[1] + 3.5) + field(section.flow[1]) / self.scanner.mpp
        u, v = (_wrapped(cv2.resize(values.astype(np.float32), size)) for values in (u, v))
        fibres = cv2.remap(self._fibres, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        grain = self._tiled(self._grain, left, top, wide, high)
        e = cv2.addWeighted(fibres, 0.20, grain, 0.10, 2.0)
        h = cv2.addWeighted(fibres, 0.02, grain, 0.04, -1.0)
        self._draw_glands(h, e, left, top)
        cv2.addWeighted(e, 1.0, grain, 0.07, -9.0, e)
        self._stamp_nuclei(h, e, left, top)
        # the edge is ragged by the fibres; where it ends, all stain ends
        edge = np.clip(tissue * 2.5 + 118, 0, 255).astype(np.uint8)
        edge = cv2.addWeighted(cv2.resize(edge, size), 1.0, fibres, 0.12, -15.0)
        edge = cv2.LUT(edge, np.clip((np.arange(256) - 96) * 8, 0, 255).astype(np.uint8))
        for plane, factor in ((h, section.thickness), (e, section.thickness * section.eosin)):
            amount = np.clip(field(factor) * 128, 40, 255).astype(np.uint8)
            amount = cv2.multiply(cv2.resize(amount, size), edge, scale=1 / 255)
            cv2.multiply(plane, amount, plane, scale=1 / 128)
        return h, e

    @staticmethod
    def _tiled(texture: Pixels, left: int, top: int, wide: int, high: int) -> Pixels:
        """Return a part of a texture that repeats, from a place on the slide."""
        rows, columns = (
            np.arange(top, top + high) % TEXTURE,
            np.arange(left, left + wide) % TEXTURE,
        )
        return np.ascontiguousarray(texture.take(rows, axis=0).take(columns, axis=1))

    def _draw_glands(self, h: Pixels, e: Pixels, left: int, top: int) -> None:
        import cv2

        if not len(self._boxes):
            return
        mpp, (high, wide) = self.scanner.mpp, h.shape
        low = np.array([left, top]) * mpp
        far = np.array([left + wide, top + high]) * mpp
        near = (self._boxes[:, 2:] > low).all(axis=1) & (self._boxes[:, :2] < far).all(axis=1)

        def fill(outline: Points, amounts: tuple[int, int]) -> None:
            points = np.round(((outline / mpp) - [left, top] - 0.5) * 16).astype(np.int32)
            for plane, amount in zip((h, e), amounts, strict=True):
                cv2.fillPoly(plane, [points], amount, cv2.LINE_AA, 4)

        for number in np.flatnonzero(near):
            gland = self.section.glands[number]
            fill(gland.outer, (3, 62))  # the membrane around it
            fill(gland.outer + (gland.outer.mean(0) - gland.outer) * 0.035, (14, 34))
            for x, y in gland.goblets:
                turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
                fill(np.stack([x + 4.6 * np.cos(turn), y + 5.4 * np.sin(turn)], 1), (7, 7))
            if gland.lumen is not None:
                fill(gland.lumen, (1, 3))

    def _stamp_nuclei(self, h: Pixels, e: Pixels, left: int, top: int) -> None:
        nuclei, mpp, (high, wide) = self.section.nuclei, self.scanner.mpp, h.shape
        reach = REACH_UM / mpp
        first, last = np.searchsorted(self._rows, [top - reach, top + high + reach])
        x = nuclei.places[first:last, 0] / mpp - left
        y = nuclei.places[first:last, 1] / mpp - top
        kinds = (
            nuclei.kinds[first:last].astype(int) * ORIENTATIONS + nuclei.orientations[first:last]
        )
        numbers = kinds * SHAPES + nuclei.shapes[first:last]
        near = (x > -reach) & (x < wide + reach)
        for i, j, number in zip(
            np.round(x[near]).astype(int).tolist(),
            np.round(y[near]).astype(int).tolist(),
            numbers[near].tolist(),
            strict=True,
        ):
            stamp = self._stamps[number]
            half = stamp.shape[0] // 2
            row, column = j - half, i - half
            window = (
                slice(max(row, 0), max(row + len(stamp), 0)),
                slice(max(column, 0), max(column + len(stamp), 0)),
            )
            place = h[window]
            if place.shape != stamp.shape:
                stamp = stamp[max(-row, 0) :, max(-column, 0) :][: place.shape[0], : place.shape[1]]
            np.maximum(place, stamp, out=place)
            np.maximum(e[window], stamp >> 2, out=e[window])

    def _near(self, line: Points, x: int, y: int, width: int, height: int) -> bool:
        """Return whether a pen stroke meets a block."""
        pixels, margin = line / self.scanner.mpp, 60 / self.scanner.mpp
        low, high = np.array([x, y]) - margin, np.array([x + width, y + height]) + margin
        return bool(((pixels > low) & (pixels < high)).all(axis=1).any())

    def _stroke(self, rgb: Pixels, line: Points, x: int, y: int) -> None:
        """Draw a pen stroke over a block, which darkens what is under it."""
        import cv2

        mask = np.zeros(rgb.shape[:2], np.uint8)
        points = np.round((line / self.scanner.mpp - [x, y]) * 16).astype(np.int32)
        thick = max(1, round(75 / self.scanner.mpp))
        cv2.polylines(
            mask,
            [points],
            isClosed=False,
            color=215,
            thickness=thick,
            lineType=cv2.LINE_AA,
            shift=4,
        )
        share = (mask.astype(np.float32) / 255)[:, :, None]
        rgb[:] = np.round(rgb * (1 - share * (1 - self._ink))).astype(np.uint8)


def _wrapped(values: Any) -> Any:
    """Return coordinates within a texture, which repeats and has a border of one pixel."""
    return values - np.floor(values / TEXTURE) * TEXTURE


def _colour_table(scanner: Scanner, stains: tuple[float, float]) -> npt.NDArray[np.uint32]:
    """Return the colour of each pair of amounts: bytes R, G, B, 0 at index 256 h + e."""
    amounts = np.arange(256) * _STEP
    hematoxylin = amounts[:, None, None] * stains[0] * np.array(scanner.hematoxylin)
    eosin = amounts[None, :, None] * stains[1] * np.array(scanner.eosin)
    light = np.array(scanner.glass) * np.exp(-(hematoxylin + eosin))
    table = np.zeros((256, 256, 4), np.uint8)
    table[:, :, :3] = np.round(light)
    return table.reshape(-1, 4).view(np.uint32)[:, 0]
