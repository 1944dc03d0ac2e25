"""Parts of the page that take a little computing before a template writes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from evaluation.report.page.content import (
    AttendedBag,
    AttendedInstance,
    Cell,
    ErrorKinds,
    Headline,
    Matrix,
    Page,
    Table,
    Value,
)
from evaluation.report.page.numbers import (
    NOTHING,
    CellView,
    cell_view,
    defined,
    duration_text,
    memory_text,
    number_text,
)

# name -> (short label, explanation); the order in which kinds are listed
KINDS = {
    "correct": ("correct", "right class, overlap of at least .5"),
    "cls": ("class", "right place, wrong class"),
    "loc": ("place", "right class, overlap between .1 and .5"),
    "both": ("class and place", "wrong class and overlap between .1 and .5"),
    "dupe": ("duplicate", "a better prediction has found the same object"),
    "bkg": ("background", "overlaps no object by .1"),
    "miss": ("missed", "an object that no prediction explains"),
    "found": ("found", "an object that a prediction found"),
    "crowd": ("crowd", "a region of many objects, which is not scored"),
    "ignored": ("ignored", "not scored, since it lies in a crowd"),
    "fp": ("all false positives", "every prediction that finds nothing"),
    "fn": ("all false negatives", "every object that is not found"),
}
SECTIONS = {
    "summary": "Summary",
    "training": "Training",
    "classes": "Classes",
    "curves": "Curves",
    "confusion": "Confusion",
    "errors": "Errors",
    "calibration": "Calibration",
    "mistakes": "Mistakes",
    "gallery": "Gallery",
    "robustness": "Robustness",
    "attention": "Attention",
    "compare": "Comparison",
    "recipe": "Recipe",
}
SCORES = {
    "ece": "ECE",
    "ece_equal_mass": "ECE (equal mass)",
    "mce": "MCE",
    "mce_equal_mass": "MCE (equal mass)",
    "brier": "Brier score",
    "log_loss": "log loss",
}
_FIELDS = {"classes": "class_tables", "recipe": "recipes"}


@dataclass(frozen=True)
class MatrixCell:
    """A cell of a matrix; `share` from 0 to 1 is its colour."""

    value: float | None
    share: float


class PageView:
    """What the templates ask about a page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.kinds = KINDS
        self.targets = {image.key for image in page.gallery} | {bag.key for bag in page.attention}
        self._tables = 0
        self._files: dict[str, str] = {}

    @cached_property
    def sections(self) -> dict[str, str]:
        """Headings of the sections that have data, by id."""
        return {
            key: heading
            for key, heading in SECTIONS.items()
            if key == "summary" or getattr(self.page, _FIELDS.get(key, key))
        }

    def cell(self, cell: Cell) -> CellView:
        """A cell of a table as it is written."""
        return cell_view(cell, self.targets)

    @staticmethod
    def score_name(name: str) -> str:
        """Name of a score of calibration for people."""
        return SCORES.get(name, name.replace("_", " "))

    def table_id(self) -> str:
        """The next id of a table; the order of tables is that of the page."""
        self._tables += 1
        return f"table-{self._tables}"

    def numeric(self, table: Table, column: int) -> bool:
        """Whether a column of a table holds numbers."""
        cells = [self.cell(row[column]) for row in table.rows]
        return all(c.numeric for c in cells) and any(c.value for c in cells)

    def unit_range(self, headline: Headline) -> bool:
        """Whether all values and intervals of a metric lie between 0 and 1."""
        ends = [x for v in headline.values for x in (v.value, v.low, v.high) if x is not None]
        return bool(ends) and all(0 <= x <= 1 for x in ends if defined(x))

    def run_number(self, name: str) -> int:
        """Number of a run, which gives its colour."""
        return next((i for i, run in enumerate(self.page.runs) if run.name == name), 0)

    def facts(self) -> list[tuple[str, list[str]]]:
        """What runs are, row by row: one text where all runs agree, otherwise one a run.

        Rows that no run knows are left out.
        """
        count = "Images" if self.page.kind == "seg" else "Bags"
        rows = {
            "Model": [r.model for r in self.page.runs],
            "Data": [r.data for r in self.page.runs],
            "Split": [r.split for r in self.page.runs],
            count: [number_text(r.count) for r in self.page.runs],
            "Folder": [r.folder for r in self.page.runs],
            "Checkpoint": [r.checkpoint or NOTHING for r in self.page.runs],
            "Best epoch": [number_text(r.best_epoch) for r in self.page.runs],
            "Last epoch": [number_text(r.last_epoch) for r in self.page.runs],
            "Steps": [number_text(r.steps) for r in self.page.runs],
            "Time of training": [duration_text(r.seconds) for r in self.page.runs],
            "Peak memory": [memory_text(r.memory_mib) for r in self.page.runs],
            "Parameters": [number_text(r.parameters) for r in self.page.runs],
        }
        return [
            (label, texts if len(set(texts)) > 1 else texts[:1])
            for label, texts in rows.items()
            if set(texts) - {NOTHING, ""}
        ]

    def best(self, headline: Headline) -> int | None:
        """Number of the run with the best value, where there are several and one is best."""
        known = [(v.value, i) for i, v in enumerate(headline.values) if defined(v.value)]
        pairs = [(v if headline.higher_is_better else -v, i) for v, i in known if v is not None]
        if len(headline.values) < 2 or not pairs:
            return None
        top = max(v for v, _ in pairs)
        winners = [i for v, i in pairs if v == top]
        return winners[0] if len(winners) == 1 else None

    def whisker(self, value: Value) -> str:
        """Style of the bar that shows a value between 0 and 1 and its interval."""
        if value.value is None or not defined(value.value):
            return ""
        low, high = (
            (value.low, value.high)
            if defined(value.low) and defined(value.high)
            else (value.value, value.value)
        )
        return f"--value:{value.value:.4f};--low:{low:.4f};--high:{high:.4f}"

    def cells(self, matrix: Matrix) -> list[list[MatrixCell]]:
        """Cells of a matrix: counts are coloured by their share of the row, others by value."""
        flat = [v for row in matrix.values for v in row if v is not None and defined(v)]
        low, high = min([0.0, *flat]), max([0.0, *flat])
        rows = []
        for row in matrix.values:
            total = sum(v for v in row if v is not None and defined(v))
            base, span = (0.0, total) if matrix.integers else (low, high - low)
            rows.append([_matrix_cell(value, base, span) for value in row])
        return rows

    def kinds_shown(self) -> list[str]:
        """Kinds of errors that occur in the gallery."""
        found = {
            kind
            for image in self.page.gallery
            for outlines in (image.truth, *image.predictions)
            for o in outlines
            for kind in (o.kind, *o.kinds)
        }
        return [kind for kind in KINDS if kind in found] + sorted(found - set(KINDS) - {""})

    def classes_shown(self) -> list[str]:
        """Names of the classes that occur in the gallery, each once."""
        found = {
            o.label
            for image in self.page.gallery
            for outlines in (image.truth, *image.predictions)
            for o in outlines
        }
        return list(dict.fromkeys(self.class_name(label) for label in sorted(found)))

    def class_name(self, label: int) -> str:
        """Name of a class."""
        return self.page.classes[label] if 0 <= label < len(self.page.classes) else f"class {label}"

    def error_tasks(self) -> dict[str, list[ErrorKinds]]:
        """Errors of all runs by task."""
        found: dict[str, list[ErrorKinds]] = {}
        for errors in self.page.errors:
            found.setdefault(errors.task, []).append(errors)
        return found

    def error_scale(self) -> float:
        """Largest gain on the page, at least .01, so that bars of all runs have one scale."""
        gains = [g for e in self.page.errors for g in e.gains.values() if defined(g)]
        return max([0.01, *gains])

    def file_id(self, file: bytes) -> tuple[str, bool]:
        """Id of an embedded file, and whether it is the first time that it is asked for."""
        digest = hashlib.sha256(file).hexdigest()[:16]
        first = digest not in self._files
        return self._files.setdefault(digest, f"file-{len(self._files)}"), first

    def some_wrong(self) -> bool:
        """Whether a bag of the page is wrong; times and values are not right or wrong."""
        return any(any(bag.wrong) for bag in self.page.attention)

    def largest(self, bag: AttendedBag) -> float:
        """Largest attention of a bag over all runs, which the bars are drawn against."""
        weights = [i.attention for run in bag.instances for i in run if defined(i.attention)]
        return max([*weights, 1e-12])

    def places(self, instances: tuple[AttendedInstance, ...]) -> list[tuple[float, float, float]]:
        """Places of instances in a frame of 100 by 100 with their relative weight, (x, y, w)."""
        known = [(i.place, i.attention) for i in instances if i.place is not None]
        if len(known) < 2:
            return []
        xs, ys = [p[0] for p, _ in known], [p[1] for p, _ in known]
        span = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
        top = max(w for _, w in known) or 1.0
        return [
            (6 + 88 * (p[0] - min(xs)) / span, 6 + 88 * (p[1] - min(ys)) / span, w / top)
            for p, w in known
        ]

    @staticmethod
    def map_height(places: list[tuple[float, float, float]]) -> float:
        """Height of the frame that holds places of `places`."""
        return max(y for _, y, _ in places) + 6


def _matrix_cell(value: float | None, base: float, span: float) -> MatrixCell:
    if value is None or not defined(value):
        return MatrixCell(None, 0.0)
    return MatrixCell(value, (value - base) / span if span else 0.0)
