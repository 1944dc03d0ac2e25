"""The page of runs on images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.report.errors import KINDS, ErrorSummary, ImageErrors, detection_errors
from evaluation.report.errors import error_summary as summarise_errors
from evaluation.report.page import seg_scores
from evaluation.report.page.content import ErrorKinds, Page, Recipe, Reliability, RunFacts, Table
from evaluation.report.page.gallery import choose_images, gallery_images
from evaluation.report.page.judged import Judged
from evaluation.report.page.mistakes import image_mistakes
from evaluation.report.page.robustness import robustness_matrices
from evaluation.report.page.seg_scores import SegScores, value
from evaluation.report.page.training import TrainingLog, training_charts
from evaluation.robustness.grid import Grid
from evaluation.seg.coco_backends import IouType
from evaluation.seg.coco_scores import KIND


@dataclass(frozen=True)
class Shared:
    """What the pages of images and bags have in common.

    Attributes:
        title: of the page.
        facts: of each run.
        logs: of the training of each run.
        recipes: of each run.
        notes: what readers should know.
        grids: scores under corruptions by model.
        gallery: number of images or bags to show.
        seed: of those that are drawn at random.
    """

    title: str
    facts: tuple[RunFacts, ...]
    logs: tuple[TrainingLog, ...]
    recipes: tuple[Recipe, ...]
    notes: tuple[str, ...]
    grids: Mapping[str, Grid]
    gallery: int = 24
    seed: int = 0


@dataclass(frozen=True)
class RunErrors:
    """Errors of a run by one overlap.

    Attributes:
        kind: overlap.
        images: errors of each image.
        summary: counts and gains.
    """

    kind: IouType
    images: Sequence[ImageErrors]
    summary: ErrorSummary


def find_errors(found: SegScores) -> tuple[tuple[RunErrors, ...], ...]:
    """Return the errors of each run by masks and boxes, the main overlap first."""
    return tuple(
        tuple(_errors(found.truth, rows, kind, found.cap) for kind in reversed(found.kinds))
        for rows in found.rows
    )


def _errors(truth: Mapping[str, Any], rows: Sequence[Any], kind: IouType, cap: int) -> RunErrors:
    images = detection_errors(truth, rows, kind, max_dets=cap)
    return RunErrors(kind, images, summarise_errors(truth, images))


def seg_page(
    shared: Shared,
    found: SegScores,
    errors: Sequence[Sequence[RunErrors]],
    reliability: Sequence[Reliability],
    read: Callable[[Any], npt.NDArray[np.uint8]],
) -> Page:
    """Return the page of runs on the same images.

    Args:
        shared: see `Shared`.
        found: their scores.
        errors: see `find_errors`.
        reliability: calibration of the detections of each run.
        read: returns the pixels of an image by its id.
    """
    judged = Judged(
        found.truth,
        found.names,
        found.rows,
        tuple(one[0].images for one in errors),
        found.point.score,
        found.main,
    )
    listed = image_mistakes(judged, linked=shared.gallery > 0)
    chosen = choose_images(judged, shared.gallery, shared.seed)
    linked = listed.positions if shared.gallery else frozenset()
    return Page(
        title=shared.title,
        kind="seg",
        runs=shared.facts,
        classes=tuple(name for _, name in found.scores[0].categories),
        headlines=seg_scores.headlines(found),
        notes=(*shared.notes, *((found.few,) if found.few else ())),
        operating_point=found.point.score,
        training=training_charts(_named_logs(shared)),
        class_tables=seg_scores.class_tables(found),
        curves=seg_scores.curves(found),
        confusion=seg_scores.confusion(found),
        errors=tuple(
            _kinds(name, one, found)
            for name, run in zip(found.names, errors, strict=True)
            for one in run
        ),
        calibration=tuple(reliability),
        mistakes=listed.tables,
        gallery=gallery_images(judged, chosen, linked, read),
        robustness=robustness_matrices(shared.grids),
        compare=seg_scores.compare_tables(found),
        recipes=shared.recipes,
    )


def _named_logs(shared: Shared) -> list[tuple[str, TrainingLog]]:
    return [(facts.name, log) for facts, log in zip(shared.facts, shared.logs, strict=True)]


def _kinds(name: str, one: RunErrors, found: SegScores) -> ErrorKinds:
    summary = one.summary
    names = dict(found.scores[0].categories)
    columns = (*KINDS, *(f"{kind} AP50" for kind in KINDS))
    classes = tuple(
        (names[category], *_cells(entry)) for category, entry in summary.by_class.items()
    )
    sizes = tuple((size, *_cells(entry)) for size, entry in summary.by_size.items())
    note = "Numbers of errors, and the AP50 gained if they were fixed."
    return ErrorKinds(
        run=name,
        task="segm" if KIND[one.kind] == "segm" else "box",
        gains=dict(summary.gains),
        counts=dict(summary.counts),
        tables=(
            Table("Errors by class", ("class", *columns), classes, note),
            Table("Errors by size", ("size", *columns), sizes, note),
        ),
    )


def _cells(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    counts = (int(entry["counts"][kind]) for kind in KINDS)
    return (*counts, *(value(entry["gains"][kind]) for kind in KINDS))
