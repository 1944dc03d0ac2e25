"""Detections, outlines and scores of patches from files, compared slide by slide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.mil.metrics import auroc, average_precision
from evaluation.wsi.froc import SlideDetections, compare_detections
from evaluation.wsi.lesion_map import LesionMap, lesion_map
from evaluation.wsi.lesion_patches import patches_in_lesions
from formats.detections_csv import read_detections
from formats.slides.lesion_outlines import SUFFIXES, LesionOutlines, read_lesion_outlines
from structures import DataProblems, Problem

NOT_OUTLINED = "test_114"  # of CAMELYON16, whose lesions are not all outlined


class SlideFROC(NamedTuple):
    """A slide that was searched.

    Attributes:
        slide: its id.
        detections: what was found, see `SlideDetections`.
        lesions: its lesions, None without any.
        outlines: their outlines.
    """

    slide: str
    detections: SlideDetections
    lesions: LesionMap | None
    outlines: LesionOutlines

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield slide, place in level-0 pixels, size, kind and best probability of each lesion."""
        if self.lesions is None:
            return
        for number, (x, y) in enumerate(self.lesions.centres.tolist()):
            counts = bool(self.detections.counts[number])
            yield {
                "slide": self.slide,
                "x": round(x),
                "y": round(y),
                "major_axis_um": round(float(self.lesions.major_axes_um[number]), 1),
                "isolated_cells": not counts,
                "probability": float(self.detections.found[number]) or None,
            }


def compare_folders(
    detections: Path, annotations: Path, mpp: float
) -> tuple[list[SlideFROC], list[str]]:
    """Compare ``<slide>.csv`` of a folder with the outlines of another.

    Args:
        detections: a file for each slide that was searched, empty where nothing was found.
        annotations: ``<slide>.xml`` or ``.geojson``; a slide without one has no lesion.
        mpp: micrometres per pixel of level 0.

    Returns:
        The slides, sorted, and notes about what does not count.

    Raises:
        ValueError: a folder or file is wrong.
    """
    files = {path.stem: path for path in _listed(detections, (".csv",), "detections, <slide>.csv")}
    outlines = _outlines(annotations)
    slides, notes = [], []
    for slide, path in sorted(files.items()):
        if slide.lower() == NOT_OUTLINED:
            notes.append(f"{slide} is left out, as its lesions are not all outlined")
            continue
        found = read_detections(path)
        own = outlines.pop(slide.lower(), None)
        drawn = LesionOutlines([], []) if own is None else read_lesion_outlines(own)
        lesions = _lesions(own, drawn, mpp) if own and drawn.lesions else None
        slides.append(SlideFROC(slide, compare_detections(found, lesions), lesions, drawn))
    outlines.pop(NOT_OUTLINED, None)
    if outlines:  # A644
        names = ", ".join(sorted(path.stem for path in outlines.values())[:5])
        notes.append(
            f"{len(outlines)} outlined slides have no file of detections and do not count "
            f"({names}{', ...' if len(outlines) > 5 else ''}); a slide without any needs an empty "
            "file"
        )
    if slides and not any(slide.lesions for slide in slides):
        raise ValueError(
            f"{annotations} outlines no lesion of the {len(slides)} slides of {detections}; name "
            f"the outlines after the slides, for example {slides[0].slide}.xml"
        )
    return slides, notes


def _lesions(path: Path, outlines: LesionOutlines, mpp: float) -> LesionMap:
    try:
        return lesion_map(outlines, mpp)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _listed(folder: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the folder of {what}")
    files = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != "."]
    if not files:
        raise ValueError(f"{folder}: there are no {what}; give the folder that has them")
    return sorted(files)


def _outlines(folder: Path) -> dict[str, Path]:
    """Return the file of each slide by its id in lower case."""
    found: dict[str, Path] = {}
    for path in _listed(folder, SUFFIXES, "outlines, <slide>.xml or .geojson"):
        other = found.setdefault(path.stem.lower(), path)
        if other != path:
            reason = f"is also outlined by {other.name}"
            raise DataProblems([Problem(path, path.stem, None, reason, "keep one file", "slide")])
    return found


def patch_metrics(
    slides: list[SlideFROC], scores: Mapping[str, npt.NDArray[np.float64]], features: Path
) -> dict[str, float]:
    """Return the mean AUROC and AUPRC of the patches of slides that have patches of both kinds.

    A patch is positive if its centre is in an outline. Scores such as attention compare the patches
    of one slide, so that slides are not mixed (A645).

    Args:
        slides: see `compare_folders`.
        scores: slide -> (N, 3) of score, x and y, the patches' corners in level-0 pixels.
        features: folder of the feature files, which tell the side of the patches.

    Returns:
        ``patch_auroc`` and ``patch_auprc``.

    Raises:
        ValueError: a slide has no scores or no feature file, or none has patches of both kinds.
    """
    areas, precisions = [], []
    for slide, _, lesions, outlines in slides:
        if lesions is None:
            continue
        if slide not in scores:
            raise ValueError(f"slide {slide} has lesions but no scores of patches; predict it, too")
        score, places = scores[slide][:, 0], scores[slide][:, 1:]
        side = _patch_side(features / f"{slide}.h5")
        parts = np.array_split(places, max(1, len(places) // 256))  # bounds the memory
        inside, cut = (
            np.concatenate([patches_in_lesions(part, side, kind) for part in parts])
            for kind in outlines
        )
        positive = inside & ~cut
        if positive.any() and not positive.all():
            once = np.ones((1, len(score)))
            areas.append(float(auroc(positive, score, once)[0]))
            precisions.append(float(average_precision(positive, score, once)[0]))
    if not areas:
        raise ValueError("no slide has patches inside and outside of lesions")
    return {"patch_auroc": float(np.mean(areas)), "patch_auprc": float(np.mean(precisions))}


def _patch_side(path: Path) -> float:
    import h5py

    if not path.is_file():
        raise ValueError(f"{path}: no such file; --features is the folder of the features")
    with h5py.File(path) as file:
        for attributes in (file.attrs, file["coords"].attrs if "coords" in file else {}):
            if "patch_size_level0" in attributes:
                return float(attributes["patch_size_level0"])
    raise ValueError(f"{path}: has no attribute patch_size_level0; extract the features with it")


def read_patch_scores(path: Path, column: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return (N, 3) of score, x and y for each slide of a table such as ``attention.csv``.

    Args:
        path: CSV with ``slide_id`` or, for bags of slides, ``bag_id``, and ``x``, ``y`` and scores.
        column: the column of the scores.

    Raises:
        DataProblems: a column is missing, or a line has no number.
    """
    from formats.camelyon import read_rows

    lines = read_rows(path, ("slide_id", "bag_id"), (column,), ("x",), ("y",))
    found: dict[str, list[list[float]]] = {}
    for number, row in lines:
        try:
            values = [float(row[name]) for name in (column, "x", "y")]
        except ValueError:
            values = [float("nan")]
        if not np.isfinite(values).all():
            reason, remedy = f"no numbers in {column}, x and y", "write all three"
            slide = row["slide_id"]
            raise DataProblems([Problem(path, slide, number, reason, remedy, "slide", "line")])
        found.setdefault(row["slide_id"], []).append(values)
    return {slide: np.array(values) for slide, values in found.items()}
