"""Plan of a synthetic section: where tissue, glands, nuclei, inflammation and lesions lie.

All lengths are micrometres from the top left corner of the slide. Smooth quantities are fields on
a coarse grid; nuclei are points. A lesion has the same glands and fibres as the tissue around it
and differs in its nuclei alone: they are large, irregular, pale and without order. There are
so few of them that the stain they take up is that of the usual nuclei, so the mean colour says
little (A510). Inflamed spots, crowds of small dark nuclei, occur in every slide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.wsi.synthetic_shapes import (
    CELL_UM,
    Field,
    Points,
    at,
    blob,
    inside,
    scatter,
    smooth_noise,
)

_MASK_UM: Final = 2.0  # of the raster of glands and lumens
EPITHELIUM, FIBRE, LYMPHOCYTE, TUMOUR = range(4)  # kinds of nuclei
ORIENTATIONS: Final = 16
SHAPES: Final = 6  # of each kind at each orientation

_GLAND_UM, _GLAND_RADII, _CELL_HEIGHT = 104.0, (28.0, 48.0), 19.0
_PER_GLAND_UM, _FIBRES, _SCATTERED = 5.6, 1400.0, 700.0  # um between nuclei; per mm2
_SPOTS, _SPOT_RADII, _SPOT_PEAK = 4.0, (40.0, 100.0), 14000.0  # per mm2; um; per mm2
_TUMOUR_UM: Final = 20.5  # distance of the nuclei of a lesion


class Gland(NamedTuple):
    """Outlines of a gland (N, 2): of its cells, its lumen (None: closed) and its goblet cells."""

    outer: Points
    lumen: Points | None
    goblets: Points


class Nuclei(NamedTuple):
    """Nuclei in the order of y: places (N, 2), kind, orientation and shape (N,)."""

    places: Points
    kinds: npt.NDArray[np.int8]
    orientations: npt.NDArray[np.int8]
    shapes: npt.NDArray[np.int8]


@dataclass(frozen=True)
class Section:
    """A section of tissue on a slide.

    Attributes:
        side_um: side of the square slide.
        tissue: about the distance from the edge of the tissue in um, negative outside.
        thickness: factor of all stain, around 1.
        eosin: factor of eosin, around 1.
        flow: (2, n, n) displacement of the fibres in x and y.
        glands: glands.
        nuclei: all nuclei.
        lesions: closed outlines (N, 2) without a repeated first point.
        pens: polylines (N, 2) of pen marks.
    """

    side_um: float
    tissue: Field
    thickness: Field
    eosin: Field
    flow: npt.NDArray[np.float32]
    glands: list[Gland]
    nuclei: Nuclei
    lesions: list[Points]
    pens: list[Points]

    @property
    def tissue_um2(self) -> float:
        """Area of the tissue."""
        return float((self.tissue > 0).sum()) * CELL_UM**2


def draw_section(
    rng: np.random.Generator, side_um: float, share: float | None, pen: bool
) -> Section:
    """Draw a section.

    Args:
        rng: source of all randomness.
        side_um: side of the slide.
        share: part of the tissue that is lesion, None for a section without.
        pen: whether there is a pen mark.
    """
    count = math.ceil(side_um / CELL_UM)
    tissue = _tissue(rng, count)
    # one random number generator per part: a lesion changes nothing but the nuclei in it
    parts = rng.spawn(6)
    thickness, eosin = (
        1 + 0.05 * smooth_noise(parts[0], count, 500) + 0.09 * smooth_noise(parts[0], count, 130)
        for _ in range(2)
    )
    flow = np.stack(
        [
            48 * smooth_noise(parts[0], count, 270) + 7 * smooth_noise(parts[0], count, 60)
            for _ in range(2)
        ]
    )
    glands = _glands(parts[1], tissue)
    lesions = [] if share is None else _lesions(parts[2], tissue, share)
    nuclei = _nuclei(parts[3], parts[4], tissue, flow, glands, lesions)
    pens = [_pen(parts[5], side_um, tissue)] if pen else []
    return Section(side_um, tissue, thickness, eosin, flow, glands, nuclei, lesions, pens)


def _tissue(rng: np.random.Generator, count: int) -> Field:
    """Return a piece of tissue that fills about half of the slide, with some clefts."""
    y, x = (np.mgrid[0:count, 0:count] + 0.5) / count - 0.5
    angle, ratio = rng.uniform(0, np.pi), rng.uniform(0.75, 1.0)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    radius = np.hypot(along / 0.44, across / (0.44 * ratio))
    side = count * CELL_UM
    shape = 1 - radius + 0.13 * smooth_noise(rng, count, side / 3)
    shape = shape * 0.44 * side + 26 * smooth_noise(rng, count, 130)
    border = (0.5 - np.maximum(abs(x), abs(y))) * side - 40  # the piece ends within the slide
    cleft = np.abs(smooth_noise(rng, count, 420)) * 110 - 4
    cleft += np.clip(0.8 - smooth_noise(rng, count, 600), 0, 1) * 300  # few places are torn
    tissue: Field = np.minimum(np.minimum(shape, border), cleft).astype(np.float32)
    return tissue


def _glands(rng: np.random.Generator, tissue: Field) -> list[Gland]:
    """Return glands on a shaken hexagonal grid, where the tissue is glandular."""
    count = len(tissue)
    side, step = count * CELL_UM, _GLAND_UM
    glandular = smooth_noise(rng, count, 700)
    rows, columns = int(side / step / 0.87) + 2, int(side / step) + 2
    y, x = np.mgrid[0:rows, 0:columns].astype(float)
    places = np.stack([(x + 0.5 * (y % 2)) * step, y * step * 0.87], axis=-1).reshape(-1, 2)
    places += rng.normal(0, 0.12 * step, places.shape)
    keep = (at(tissue, places) > 45) & (at(glandular, places) > -0.55)
    keep &= (places > 0).all(axis=1) & (places < side).all(axis=1)
    glands = []
    for place in places[keep]:
        radius, ratio, turn = (
            rng.uniform(*_GLAND_RADII),
            rng.uniform(0.75, 1),
            rng.uniform(0, np.pi),
        )
        turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        unit = blob(rng, 0.12) * [1, ratio] @ turned
        lumen = unit * (radius - _CELL_HEIGHT * rng.uniform(0.95, 1.15))
        closed = radius < 34
        ring = unit[rng.permutation(len(unit))[: rng.integers(0, 14)]] * (
            radius - 0.62 * _CELL_HEIGHT
        )
        glands.append(Gland(unit * radius + place, None if closed else lumen + place, ring + place))
    return glands


def _lesions(rng: np.random.Generator, tissue: Field, share: float) -> list[Points]:
    """Return one or two lesions, at the edge of the tissue or in it, that fill a share of it."""
    parts = rng.dirichlet([6, 6]) if rng.random() < 0.4 and share > 0.05 else np.ones(1)
    free = tissue > 0
    total = int(free.sum())
    found = []
    for part in parts:
        outline, taken = _lesion(rng, tissue, free, max(int(part * share * total), 12))
        found.append(outline)
        free &= ~taken
    return found


def _lesion(
    rng: np.random.Generator, tissue: Field, free: npt.NDArray[np.bool_], cells: int
) -> tuple[Points, npt.NDArray[np.bool_]]:
    """Return the outline of a blob of as many free cells of tissue, and the cells near it."""
    import cv2

    deep = np.argwhere(free & (tissue > 20))
    row, column = deep[rng.integers(len(deep))]
    y, x = np.mgrid[0 : len(tissue), 0 : len(tissue)]
    radius = np.hypot(*blob(rng, 0.35, 128).T)
    angles = np.arctan2(y - row, x - column) % (2 * np.pi)
    at_angles = np.interp(angles, np.linspace(0, 2 * np.pi, 129), np.append(radius, radius[0]))
    distance = np.hypot(y - row, x - column) / at_angles
    limit = np.partition(distance[free], cells)[cells]
    level = np.minimum((limit - distance) / limit, np.where(free, tissue / 200, -0.01))
    size = (4 * len(tissue), 4 * len(tissue))
    fine = cv2.resize(level.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0
    outlines, _ = cv2.findContours(fine.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = cv2.approxPolyDP(max(outlines, key=cv2.contourArea), 0.6, closed=True)
    return (outline[:, 0].astype(float) + 0.5) * CELL_UM / 4, distance <= limit


def _nuclei(
    rng: np.random.Generator,
    tumour_rng: np.random.Generator,
    tissue: Field,
    flow: npt.NDArray[np.float32],
    glands: list[Gland],
    lesions: list[Points],
) -> Nuclei:
    """Return the nuclei of glands, of the tissue between them, of inflamed spots and of lesions."""
    raster = _raster(glands, len(tissue))
    places, turns, kinds = [], [], []

    def put(where: Points, kind: int, angles: npt.NDArray[np.float64]) -> None:
        places.append(where)
        turns.append(angles)
        kinds.append(np.full(len(where), kind, np.int8))

    for gland in glands:
        where, angles = _ring(rng, gland)
        put(where, EPITHELIUM, angles)
    between = scatter(rng, np.full_like(tissue, _FIBRES), _FIBRES)
    between = between[at(raster, between, _MASK_UM) == 0]
    put(between, FIBRE, _directions(flow, between) + rng.normal(0, 0.2, len(between)))
    crowd = _inflammation(rng, tissue) + _SCATTERED
    cells = scatter(rng, crowd, float(crowd.max()))
    cells = cells[at(raster, cells, _MASK_UM) == 0]
    put(cells, LYMPHOCYTE, rng.uniform(0, np.pi, len(cells)))
    where, replaced = np.concatenate(places), np.concatenate(kinds) != LYMPHOCYTE
    usual = np.ones(len(where), bool)
    for lesion in lesions:
        usual &= ~(inside(lesion, where) & replaced)
        grown = _tumour(tumour_rng, lesion)
        grown = grown[at(raster, grown, _MASK_UM) != 2]
        put(grown, TUMOUR, tumour_rng.uniform(0, np.pi, len(grown)))
    where = np.concatenate(places)
    keep = np.concatenate([usual, np.ones(len(where) - len(usual), bool)])
    keep &= at(tissue, where) > 4
    order = np.flatnonzero(keep)[np.argsort(where[keep, 1], kind="stable")]
    orientations = np.round(np.concatenate(turns) / np.pi * ORIENTATIONS).astype(int) % ORIENTATIONS
    shapes = rng.integers(0, SHAPES, len(where)).astype(np.int8)
    return Nuclei(
        where[order],
        np.concatenate(kinds)[order],
        orientations[order].astype(np.int8),
        shapes[order],
    )


def _raster(glands: list[Gland], count: int) -> npt.NDArray[np.uint8]:
    """Return 1 in the cells of glands, 2 in lumens, 0 elsewhere."""
    import cv2

    side = math.ceil(count * CELL_UM / _MASK_UM)
    raster = np.zeros((side, side), np.uint8)
    for value, outlines in ((1, [g.outer for g in glands]), (2, [g.lumen for g in glands])):
        for outline in outlines:
            if outline is not None:
                cv2.fillPoly(raster, [np.round(outline / _MASK_UM).astype(np.int32)], value)
    return raster


def _ring(rng: np.random.Generator, gland: Gland) -> tuple[Points, npt.NDArray[np.float64]]:
    """Return the nuclei at the base of a gland's cells, pointing to its middle."""
    centre = gland.outer.mean(axis=0)
    edges = np.hypot(*(np.roll(gland.outer, -1, axis=0) - gland.outer).T)
    count = max(int(edges.sum() / _PER_GLAND_UM), 3)
    along = (np.arange(count) + rng.normal(0, 0.2, count)) / count * len(gland.outer)
    first = np.floor(along).astype(int) % len(gland.outer)
    part = (along % 1)[:, None]
    rim = gland.outer[first] * (1 - part) + gland.outer[(first + 1) % len(gland.outer)] * part
    outward = rim - centre
    length = np.hypot(*outward.T)[:, None]
    where = rim - outward / length * rng.normal(6.0, 1.0, count)[:, None]
    return where, np.arctan2(outward[:, 1], outward[:, 0]) + rng.normal(0, 0.15, count)


def _directions(flow: npt.NDArray[np.float32], places: Points) -> npt.NDArray[np.float64]:
    """Return the angle of the fibres at places: fibres are where y + flow_y is constant."""
    dy, dx = np.gradient(flow[1], CELL_UM)
    angles: npt.NDArray[np.float64] = np.arctan2(-at(dx, places), 1 + at(dy, places))
    return angles


def _inflammation(rng: np.random.Generator, tissue: Field) -> Field:
    """Return the density of lymphocytes of inflamed spots, per mm2."""
    count = len(tissue)
    cells = np.argwhere(tissue > 0)
    area = len(cells) * CELL_UM**2 / 1e6
    density = np.zeros_like(tissue)
    for y, x in cells[rng.integers(0, len(cells), max(2, rng.poisson(_SPOTS * area)))]:
        radius = rng.uniform(*_SPOT_RADII) / CELL_UM
        reach = math.ceil(2.5 * radius)
        rows, columns = slice(max(y - reach, 0), y + reach), slice(max(x - reach, 0), x + reach)
        i, j = np.ogrid[
            rows.start : min(rows.stop, count), columns.start : min(columns.stop, count)
        ]
        bump = np.exp(-((((i - y) ** 2 + (j - x) ** 2) / radius**2) ** 1.5)) * rng.uniform(0.5, 1)
        density[rows, columns] = np.maximum(density[rows, columns], _SPOT_PEAK * bump)
    return density


def _tumour(rng: np.random.Generator, lesion: Points) -> Points:
    """Return places at about equal distances in a lesion."""
    low, high = lesion.min(axis=0), lesion.max(axis=0)
    grid = np.stack(
        np.meshgrid(*(np.arange(a, b, _TUMOUR_UM) for a, b in zip(low, high, strict=True))), axis=-1
    ).reshape(-1, 2)
    places = grid + rng.uniform(-0.42, 0.42, grid.shape) * _TUMOUR_UM
    return places[inside(lesion, places)]


def _pen(rng: np.random.Generator, side: float, tissue: Field) -> Points:
    """Return a stroke beside the tissue, which it may touch."""
    count = max(24, int(side / 75))
    angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, rng.uniform(0.5, 1.2), count)
    out = rng.uniform(0.46, 0.52) * side
    wobble = np.cumsum(rng.normal(0, 0.03 * side / count**0.5, count))
    centre = np.argwhere(tissue > 0).mean(axis=0)[::-1] * CELL_UM
    spokes = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (out + wobble)[:, None]
    stroke: Points = centre + spokes
    return stroke
