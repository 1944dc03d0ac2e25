"""Lists of what runs get wrong in images, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from evaluation.report.errors import MATCH, DetectionRecord, ObjectRecord
from evaluation.report.page.content import Cell, Link, Table
from evaluation.report.page.judged import Judged, f1, image_key

ROWS = 12  # of a table, shared by the runs

_TITLES = {
    "bkg": ("Most confident detections of nothing", "No object overlaps by more than IoU .10."),
    "cls": ("Most confident wrong classes", "An object of another class overlaps by IoU .50."),
    "dupe": ("Most confident duplicates", "The object was found by a better detection."),
}
_WHY = {
    "miss": "nothing near",
    "cls": "wrong class",
    "loc": "wrong place",
    MATCH: "below the confidence",
}


class Listed(NamedTuple):
    """Tables of mistakes and the images that they lead to.

    Attributes:
        tables: tables, whose first links are `GalleryImage.key`.
        positions: positions of the images in the ground truth.
    """

    tables: tuple[Table, ...]
    positions: frozenset[int]


class _Row(NamedTuple):
    position: int
    order: float  # descending
    cells: tuple[Cell, ...]


def image_mistakes(judged: Judged, linked: bool = True) -> Listed:
    """Return the lists of mistakes.

    Args:
        judged: the runs.
        linked: whether rows lead to images of a gallery.
    """
    tables: list[Table] = []
    positions: set[int] = set()
    for title, note, columns, rows in _lists(judged):
        if rows:
            positions |= {row.position for row in rows}
            names = judged.image_names()
            cells = tuple(
                (_link(names[row.position], row.position, linked), *row.cells) for row in rows
            )
            tables.append(Table(title, ("image", *columns), cells, note))
    return Listed(tuple(tables), frozenset(positions))


def _link(name: str, position: int, linked: bool) -> Cell:
    return Link(name, image_key(position)) if linked else name


_List = tuple[str, str, tuple[str, ...], list[_Row]]


def _lists(judged: Judged) -> Iterator[_List]:
    yield _by_f1(judged)
    for kind, (title, note) in _TITLES.items():
        columns = ("predicted", *(("true class",) if kind == "cls" else ()), "score", "IoU", "area")
        yield title, note, _with_run(judged, columns), _detections(judged, kind)
    note = f"Objects that no detection of confidence {judged.score:g} or more finds."
    columns = _with_run(judged, ("class", "area", "why"))
    yield "Largest missed objects", note, columns, _missed(judged)
    for other in range(1, len(judged.names)):
        yield from _between(judged, other)


def _with_run(judged: Judged, columns: tuple[str, ...]) -> tuple[str, ...]:
    return ("run", *columns) if len(judged.names) > 1 else columns


def _run_cell(judged: Judged, run: int) -> tuple[Cell, ...]:
    return (judged.names[run],) if len(judged.names) > 1 else ()


def _by_f1(judged: Judged) -> _List:
    counts = [judged.counts(run) for run in range(len(judged.names))]
    values = [f1(one) for one in counts]
    several = len(judged.names) > 1
    columns = tuple(f"F1 {name}" for name in judged.names) if several else ("F1",)
    rows = [
        _Row(
            n,
            -float(values[0][n]),
            (*(_number(one[n]) for one in values), *(int(v) for v in counts[0][n])),
        )
        for n in worst_first(values[0])[:ROWS]
    ]
    note = (
        f"True and false positives and missed objects of {judged.names[0]} at a confidence of "
        f"{judged.score:g} and IoU .50."
    )
    return "Images by F1, worst first", note, (*columns, "found", "false", "missed"), rows


def worst_first(values: np.ndarray) -> list[int]:  # type: ignore[type-arg]
    """Return the positions of the images by F1, without those where it is undefined."""
    order = np.argsort(values, kind="stable")
    return [int(n) for n in order if not np.isnan(values[n])]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _best(judged: Judged, rows: Sequence[list[_Row]]) -> list[_Row]:
    """Return the first rows of each run, as many of each, by run."""
    share = max(1, ROWS // len(judged.names))
    return [r for one in rows for r in sorted(one, key=lambda r: -r.order)[:share]]


def _detections(judged: Judged, kind: str) -> list[_Row]:
    names, found = judged.class_names(), []
    for run, images in enumerate(judged.images):
        rows = []
        for position, image in enumerate(images):
            for d in image.detections:
                if d.kind == kind and not d.crowd:
                    cells = (*_run_cell(judged, run), *_detection_cells(d, names))
                    rows.append(_Row(position, d.score, cells))
        found.append(rows)
    return _best(judged, found)


def _detection_cells(d: DetectionRecord, names: dict[int, str]) -> tuple[Cell, ...]:
    true = (names[d.truth_category_id],) if d.kind == "cls" and d.truth_category_id else ()
    return (names[d.category_id], *true, round(d.score, 4), round(d.iou, 4), round(d.area))


def _missed(judged: Judged) -> list[_Row]:
    names, found = judged.class_names(), []
    for run, images in enumerate(judged.images):
        rows = []
        for position, image in enumerate(images):
            held = judged.found(run, position)
            for o in image.objects:
                if o.truth not in held:
                    cells = (names[o.category_id], round(o.area), _WHY[o.kind])
                    rows.append(_Row(position, o.area, (*_run_cell(judged, run), *cells)))
        found.append(rows)
    return _best(judged, found)


def _between(judged: Judged, other: int) -> Iterator[_List]:
    """Yield what the reference finds and another run misses, and the reverse."""
    for one, two in ((0, other), (other, 0)):
        rows = []
        for position, image in enumerate(judged.images[one]):
            mine, theirs = judged.found(one, position), judged.found(two, position)
            for o in image.objects:
                if o.truth in mine and o.truth not in theirs:
                    rows.append(_Row(position, o.area, _object_cells(judged, o, mine[o.truth])))
        first, second = judged.names[one], judged.names[two]
        title = f"Found by {first}, missed by {second}"
        note = f"{len(rows)} objects at a confidence of {judged.score:g}, the largest first."
        best = sorted(rows, key=lambda r: -r.order)[: ROWS // 2]
        yield title, note, ("class", "area", "score"), best


def _object_cells(judged: Judged, o: ObjectRecord, score: float) -> tuple[Cell, ...]:
    return judged.class_names()[o.category_id], round(o.area), round(score, 4)
