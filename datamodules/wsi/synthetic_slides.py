"""Whole slides that we draw ourselves: H&E-like sections of several scanners with exact lesions.

`write_slides` writes what a laboratory has, slide files and a table, and what it seldom has, the
outline of every lesion. Everything depends on the seed alone: equal arguments give equal files,
byte for byte with the same versions of OpenCV and tifffile.
"""

from __future__ import annotations

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from datamodules.wsi.synthetic_stain import SCANNERS, Scanner, SectionPainter
from datamodules.wsi.synthetic_tissue import Section, draw_section
from formats.files import write_csv, write_json
from formats.slides.pyramid_writer import write_pyramid

_SHARES: Final = (0.04, 0.10)  # of the tissue that is lesion in a positive slide
_PEN: Final = 0.4  # share of the slides with a pen mark


@dataclass(frozen=True)
class SyntheticSlide:
    """A slide to draw.

    Attributes:
        slide_id: name of its files.
        patient_id: whose slide it is; all slides of a patient have the same label (A511).
        label: 1 if it has a lesion.
        scanner: all slides of a patient come from one.
        seed: words that determine everything else.
        side_um: side of the square slide.
    """

    slide_id: str
    patient_id: str
    label: int
    scanner: Scanner
    seed: tuple[int, ...]
    side_um: float

    def section(self) -> tuple[Section, tuple[float, float], int]:
        """Draw the section; return it, the strength of its two stains and the number of its pen."""
        rng = np.random.default_rng(self.seed)
        stains = (float(rng.uniform(0.85, 1.15)), float(rng.uniform(0.8, 1.2)))
        ink, pen = int(rng.integers(3)), bool(rng.random() < _PEN)
        share = float(rng.uniform(*_SHARES))
        return draw_section(rng, self.side_um, share if self.label else None, pen), stains, ink


def plan_slides(
    slides: int, patients: int, seed: int, side_mm: float = 1.8
) -> list[SyntheticSlide]:
    """Return the slides to draw, half of the patients positive, scanners alike in both halves.

    Raises:
        ValueError: fewer than two patients, fewer slides than patients, or too small a slide.
    """
    if not 2 <= patients <= slides or side_mm < 0.5:
        raise ValueError(
            "synthetic slides need at least two patients, a slide for each and 0.5 mm, got "
            f"{slides} slides of {patients} patients of {side_mm} mm"
        )
    rng = np.random.default_rng([seed, 0])
    order = rng.permutation(patients)  # its first half is positive
    extra = rng.permutation(patients)
    planned = []
    for number in range(slides):
        patient = number if number < patients else int(extra[(number - patients) % patients])
        rank = int(np.flatnonzero(order == patient)[0])
        label = int(rank < patients // 2)
        scanner = SCANNERS[(rank - (0 if label else patients // 2)) % len(SCANNERS)]
        planned.append(
            SyntheticSlide(
                f"slide_{number:03d}", f"patient_{patient:03d}", label, scanner,
                (seed, 1, number), side_mm * 1000,
            )
        )  # fmt: skip
    return planned


def write_slides(
    folder: Path,
    slides: int = 40,
    patients: int = 30,
    seed: int = 0,
    *,
    side_mm: float = 1.8,
    workers: int = 1,
) -> Path:
    """Write slides, their table and the outlines of their lesions.

    ``folder/slides/<slide_id>.tiff`` are pyramids of JPEG tiles, ``folder/slides.csv`` has the
    columns slide_id, patient_id, label and scanner, and ``folder/lesions/<slide_id>.geojson`` the
    outlines in pixels of level 0, as QuPath reads them; without lesions it has no features.

    Args:
        folder: made if it does not exist.
        slides: number of slides, the first of each patient first.
        patients: number of patients, half of them positive.
        seed: equal seeds give equal files, byte for byte.
        side_mm: side of the slides.
        workers: processes that draw slides.

    Returns:
        The table.

    Raises:
        ValueError: see `plan_slides`.
        ImportError: tifffile is not installed.
    """
    planned, folder = plan_slides(slides, patients, seed, side_mm), Path(folder)
    for name in ("slides", "lesions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write = functools.partial(write_slide, folder=folder)
    if workers > 1:
        spawn = multiprocessing.get_context("spawn")  # the caller may have threads
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            list(pool.map(write, planned))
    else:
        for slide in planned:
            write(slide)
    table = folder / "slides.csv"
    rows = [(s.slide_id, s.patient_id, s.label, s.scanner.name) for s in planned]
    write_csv(table, ("slide_id", "patient_id", "label", "scanner"), rows)
    return table


def write_slide(slide: SyntheticSlide, folder: Path) -> None:
    """Write one slide and the outlines of its lesions below a folder."""
    section, stains, ink = slide.section()
    painter = SectionPainter(section, slide.scanner, stains, ink)
    write_pyramid(
        folder / "slides" / f"{slide.slide_id}.tiff",
        (painter.size, painter.size),
        slide.scanner.mpp,
        painter.block,
        factors=slide.scanner.factors,
        background=slide.scanner.glass,
    )
    features = [_feature(outline / slide.scanner.mpp) for outline in section.lesions]
    write_json(
        folder / "lesions" / f"{slide.slide_id}.geojson",
        {"type": "FeatureCollection", "features": features},
    )


def _feature(outline: Any) -> dict[str, Any]:
    """Return a polygon of GeoJSON, whose last point is its first."""
    points = np.round(np.concatenate([outline, outline[:1]]), 2).tolist()
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [points]},
        "properties": {"objectType": "annotation", "classification": {"name": "Lesion"}},
    }
