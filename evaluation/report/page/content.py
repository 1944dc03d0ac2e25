"""What the HTML report of one or several runs holds, apart from how it is drawn.

A section without data is None or empty, and the page leaves it out. Where several runs stand side
by side, tuples are in the order of `Page.runs`, and the first run is the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]


@dataclass(frozen=True)
class Value:
    """A number and, where it is known, its interval; None where the number is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Link:
    """Text of a table's cell that leads to an image of the gallery or to a bag.

    Attributes:
        text: text of the link.
        target: `GalleryImage.key` or `AttendedBag.key`.
    """

    text: str
    target: str


Cell = str | int | float | Value | Link | None


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by its columns.

    Attributes:
        title: heading.
        columns: names of the columns.
        rows: one cell for each column.
        note: one sentence on how to read it, or empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a chart: x and y have one value a point; None is a gap.

    Attributes:
        run: number of the run in `Page.runs`, which gives the colour, or None.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    dashed: bool = False
    run: int | None = None


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis.

    Attributes:
        key: name that is unique on the page, such as `train_loss`.
        diagonal: a dotted line from (0, 0) to (1, 1) is drawn.
        log_y: the vertical axis is logarithmic.
        unit: both axes span 0 to 1.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    diagonal: bool = False
    log_y: bool = False
    unit: bool = False


@dataclass(frozen=True)
class Headline:
    """A metric of all runs.

    Attributes:
        name: as in the JSON record, such as `segm_map`.
        label: for people, such as `Mask AP`.
        values: one a run.
        higher_is_better: whether larger numbers are better.
    """

    name: str
    label: str
    values: tuple[Value, ...]
    higher_is_better: bool = True


@dataclass(frozen=True)
class RunFacts:
    """What a run is; numbers are None where the folder does not say."""

    name: str
    folder: str
    model: str
    checkpoint: str | None
    data: str
    split: str
    count: int
    best_epoch: int | None = None
    last_epoch: int | None = None
    steps: int | None = None
    seconds: float | None = None
    memory_mib: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Matrix:
    """A matrix of numbers, drawn in colours with its values.

    Attributes:
        run: name of the run, or empty.
        rows, columns: names; `values[i][j]` belongs to row i and column j, None where unknown.
        integers: numbers are counts.
    """

    title: str
    run: str
    row_label: str
    column_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    integers: bool = False


@dataclass(frozen=True)
class ErrorKinds:
    """Errors of one run after TIDE, for masks or boxes.

    Attributes:
        task: `segm` or `box`.
        gains: AP50 gained if each of cls, loc, both, dupe, bkg, miss, fp, fn were fixed; fractions.
        counts: how many errors there are of the first six.
        tables: gains and counts by class and by size.
    """

    run: str
    task: Literal["segm", "box"]
    gains: dict[str, float]
    counts: dict[str, int]
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram with its consistency band, and its scores.

    Attributes:
        subject: what is scored, such as `bags` or `detections (masks)`.
        confidence, frequency: one a bin that holds something.
        counts: how many scores each of these bins holds.
        low, high: consistency band of the frequency in each of these bins.
        scores: ece, mce, brier, log_loss and others by name.
    """

    run: str
    subject: str
    confidence: tuple[float, ...]
    frequency: tuple[float, ...]
    counts: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Outline:
    """One instance of an image.

    Attributes:
        label: number of its class in `Page.classes`.
        polygons: rings in pixels of the image as it was read, half-open (x, y); several where the
            mask has parts. Without a mask, the four corners of the box.
        score: of a prediction, None for the truth.
        kind: of a prediction `correct`, `cls`, `loc`, `both`, `dupe`, `bkg` or `ignored`; of the
            truth `found`, `miss`, `crowd` or `ignored`.
        iou: with the object it was compared with, None without one.
        area: pixels.
        kinds: `kind` of the truth by run, empty where it is that of all runs.
    """

    label: int
    polygons: tuple[tuple[Point, ...], ...]
    score: float | None = None
    kind: str = ""
    iou: float | None = None
    area: float | None = None
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class GalleryImage:
    """An image with its objects and what each run predicts.

    Attributes:
        key: unique on the page; letters, digits, `-` and `_`.
        name: file name or id, as text.
        width, height: pixels of the image as it was read, which outlines refer to.
        file: bytes of a PNG, JPEG or WebP file, perhaps smaller than that.
        mime: such as `image/png`.
        truth: objects.
        predictions: one tuple a run.
        note: such as `F1 .41`.
    """

    key: str
    name: str
    width: int
    height: int
    file: bytes
    mime: str
    truth: tuple[Outline, ...]
    predictions: tuple[tuple[Outline, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class AttendedInstance:
    """An instance of a bag.

    Attributes:
        index: number in the bag, from 0.
        attention: weight; sums to 1 over the bag.
        place: (x, y) level-0 pixels of a slide, None where unknown.
        file, mime: an image of the instance, None and empty where there is none.
        positive: whether the instance is known to be positive.
    """

    index: int
    attention: float
    place: Point | None = None
    file: bytes | None = None
    mime: str = ""
    positive: bool | None = None


@dataclass(frozen=True)
class AttendedBag:
    """A bag and the instances that each run attends to most.

    Attributes:
        key: unique on the page; letters, digits, `-` and `_`.
        name: id of the bag, as text.
        truth: label as text.
        predictions: one text a run, such as `9 (.98)`.
        count: instances in the bag.
        instances: one tuple a run, largest weight first.
        wrong: whether each run's prediction is wrong.
    """

    key: str
    name: str
    truth: str
    predictions: tuple[str, ...]
    count: int
    instances: tuple[tuple[AttendedInstance, ...], ...]
    wrong: tuple[bool, ...]


@dataclass(frozen=True)
class Recipe:
    """How a run is made again.

    Attributes:
        configuration: YAML text.
        commands: what a number comes from -> command line.
        facts: versions, git commit, hashes of data and checkpoint.
    """

    run: str
    configuration: str
    commands: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """The whole report.

    Attributes:
        kind: `seg` or `mil`.
        runs: names, unique; the first is the reference.
        classes: names of the foreground classes; `Outline.label` counts them from 0.
        notes: what readers should know, such as images that were left out.
        operating_point: score at which images' F1 and the gallery's first view are taken.
    """

    title: str
    kind: Literal["seg", "mil"]
    runs: tuple[RunFacts, ...]
    classes: tuple[str, ...]
    headlines: tuple[Headline, ...]
    notes: tuple[str, ...] = ()
    operating_point: float = 0.5
    training: tuple[Chart, ...] = ()
    class_tables: tuple[Table, ...] = ()
    curves: tuple[Chart, ...] = ()
    confusion: tuple[Matrix, ...] = ()
    errors: tuple[ErrorKinds, ...] = ()
    calibration: tuple[Reliability, ...] = ()
    mistakes: tuple[Table, ...] = ()
    gallery: tuple[GalleryImage, ...] = ()
    robustness: tuple[Matrix, ...] = ()
    attention: tuple[AttendedBag, ...] = ()
    compare: tuple[Table, ...] = ()
    recipes: tuple[Recipe, ...] = ()
