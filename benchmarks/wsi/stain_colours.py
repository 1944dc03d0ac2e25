"""Colours of drawn slides before and after stain normalisation, against the stains they have.

The part of `cross_scanner.py` that trains nothing: how far the mean colours of the tissue of slides
are apart, and how far fitted stains are from those that the slides were drawn with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datamodules.transforms.stain import DensityMap, densities, mean_density
from datamodules.wsi.planning import Patching
from datamodules.wsi.slide_list import SlideHeader, list_slides, read_headers
from datamodules.wsi.stain import Macenko, Reinhard
from datamodules.wsi.stain_sample import StainSample
from datamodules.wsi.synthetic_slides import SyntheticSlide
from datamodules.wsi.tissue import OtsuTissue
from formats.slides.pyramid import open_slide
from formats.slides.resolution import PatchReader

Image = npt.NDArray[np.uint8]
Change = Callable[[Image], Image]
MPP, PX = 0.5, 224
WHITE = np.full(3, 255.0)
BETA = 0.15
# How Macenko's method is fitted: whether the glass of the slide or 255 is white, whether the mean
# or the least density of the channels exceeds beta, and the unit of beta (natural or decimal).
PLAIN = {
    "Macenko, plain": (False, False, np.log(10)),
    "Macenko, plain, beta in natural logarithms": (False, False, 1.0),
    "Macenko, plain but for the glass": (True, False, np.log(10)),
    "Macenko, plain but for the mean density": (False, True, 1.0),
}
METHODS = ("none", *PLAIN, "Macenko", "Reinhard", "true stains")


class _Kept:
    """A stain that is not fitted, to get the sample that it would be fitted on."""

    sample: StainSample

    def fit(self, sample: StainSample) -> dict[str, Any]:
        """Keep the sample."""
        self.sample = sample
        return {}

    def transform(self, values: Mapping[str, Any]) -> Change:
        """Return no change."""
        del values
        return lambda image: image

    def section(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class Stains(NamedTuple):
    """Stains of a slide: vectors (2, 3), amounts (2,) that are compared, and white (3,)."""

    vectors: npt.NDArray[np.float64]
    amounts: npt.NDArray[np.float64]
    white: npt.NDArray[np.float64]

    def change_to(self, other: Stains) -> DensityMap:
        """Return the map of densities to other stains."""
        factors = np.diag(other.amounts / self.amounts)
        matrix = np.linalg.pinv(self.vectors) @ factors @ other.vectors
        return DensityMap(matrix, np.zeros(3), self.white, other.white)

    def angles(self, slide: SyntheticSlide) -> tuple[float, float]:
        """Return the degrees between haematoxylin and eosin and those of the slide."""
        true = np.array([slide.scanner.hematoxylin, slide.scanner.eosin])
        pairs = zip(self.vectors, true, strict=True)
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
        first, second = np.degrees(np.arccos(np.clip(cosines, -1, 1))).tolist()
        return first, second


def fitted(sample: StainSample, glass: bool, mean: bool, unit: float) -> Stains:
    """Fit Macenko's method in one of the ways of `PLAIN`."""
    white = np.asarray(sample.glass, float) if glass else WHITE
    density = densities(sample.pixels, white)
    compared = density.mean(axis=1) if mean else density.min(axis=1)
    tissue = density[compared > BETA * unit]
    plane = np.linalg.eigh(tissue.T @ tissue)[1][:, :0:-1]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    angles = np.percentile(np.arctan2(*(tissue @ plane).T[::-1]), [1, 99])
    ends = np.stack([np.cos(angles), np.sin(angles)]).T @ plane.T
    vectors = ends[np.argsort(-ends[:, 0])]
    return Stains(vectors, np.percentile(tissue @ np.linalg.pinv(vectors), 99, axis=0), white)


def true_stains(slide: SyntheticSlide, strengths: tuple[float, float]) -> Stains:
    """Return what a slide was drawn with."""
    vectors = np.array([slide.scanner.hematoxylin, slide.scanner.eosin])
    return Stains(vectors, np.array(strengths), np.array(slide.scanner.glass, float))


REFERENCE = Macenko().reference
STANDARD = Stains(
    np.array([REFERENCE["hematoxylin"], REFERENCE["eosin"]]), np.array(REFERENCE["amounts"]), WHITE
)


def samples(folder: Path) -> Iterator[tuple[SlideHeader, StainSample, list[Image]]]:
    """Yield the sample of each slide of a folder, and three of its patches."""
    headers, _ = read_headers(list_slides(folder, None)[0], MPP)
    for header in headers:
        stain = _Kept()
        plan = Patching(MPP, PX, OtsuTissue(), 0.25, None, stain).plan(header)
        assert plan.slide is not None, plan.fault
        with open_slide(header.path) as file:
            reader = PatchReader(file, header.mpp, MPP, PX)
            places = plan.slide.coords[:: max(1, len(plan.slide) // 3)][:3].tolist()
            yield header, stain.sample, [reader.read(x, y) for x, y in places]


def changes(
    sample: StainSample, slide: SyntheticSlide, strengths: tuple[float, float]
) -> Iterator[tuple[str, Change, tuple[float, float] | None]]:
    """Yield each method's change of a slide's pixels, and the angles of its stains.

    The true stains are brought to one standard, about as dense, so that what is left of
    the spread is that of the tissue itself.
    """
    true = true_stains(slide, strengths)
    for name in METHODS:
        if name == "none":
            yield name, lambda image: image, None
        elif name in PLAIN:
            found = fitted(sample, *PLAIN[name])
            yield name, found.change_to(STANDARD), found.angles(slide)
        elif name == "true stains":
            standard = Stains(STANDARD.vectors, np.array([1.35, 1.8]), WHITE)
            yield name, true.change_to(standard), None
        else:
            method: Any = Macenko() if name == "Macenko" else Reinhard()
            values = method.fit(sample)
            angles = None
            if name == "Macenko":
                vectors = np.array([values["hematoxylin"], values["eosin"]])
                angles = Stains(vectors, STANDARD.amounts, WHITE).angles(slide)
            yield name, method.transform(values), angles


def tissue_colour(pixels: Image, sample: StainSample, change: Change) -> list[float]:
    """Return the mean colour (3,) of the tissue of a sample after a change."""
    tissue = pixels[mean_density(pixels, sample.glass) > BETA]
    found: list[float] = change(tissue[None])[0].astype(float).mean(axis=0).tolist()
    return found


def measured(folder: Path, plans: Mapping[str, SyntheticSlide]) -> dict[str, Any]:
    """Return colours and angles of all slides and methods, and tiles of some slides.

    Args:
        folder: the slide files.
        plans: slide -> how it was drawn.
    """
    colours: dict[str, dict[str, list[float]]] = {name: {} for name in METHODS}
    angles: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in METHODS}
    tiles: dict[str, list[Image]] = {}
    for header, sample, patches in samples(folder):
        slide = plans[header.slide_id]
        strengths = slide.section()[1]
        shown = tiles.setdefault(slide.scanner.name, [])
        first = not shown
        for name, change, apart in changes(sample, slide, strengths):
            colours[name][header.slide_id] = tissue_colour(sample.pixels, sample, change)
            if apart is not None:
                angles[name][header.slide_id] = apart
            if first and name in ("none", "Macenko, plain", "Macenko", "Reinhard"):
                shown.append(change(patches[1]))
    return {"colours": colours, "angles": angles, "tiles": tiles}


def spread(colours: Mapping[str, list[float]]) -> list[float]:
    """Return the standard deviation (3,) of mean colours over slides."""
    found: list[float] = np.std(list(colours.values()), axis=0).tolist()
    return found
