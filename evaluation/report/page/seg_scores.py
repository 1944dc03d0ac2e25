"""Scores of one or several runs on the same images: headlines, classes, curves, differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluation.report.page.content import Cell, Chart, Headline, Line, Matrix, Table, Value
from evaluation.seg.coco import score_results
from evaluation.seg.coco_backends import IouType, accumulate
from evaluation.seg.coco_bootstrap import drawn_metrics
from evaluation.seg.coco_scores import AREAS, KIND, CocoScores
from evaluation.seg.coco_weighted import match_once
from evaluation.seg.confusion import detection_confusion
from evaluation.seg.operating_point import OperatingPoint, count_at_confidence
from evaluation.statistics.paired import Paired, paired_differences
from evaluation.statistics.resampling import percentile_interval
from evaluation.statistics.sample_size import too_few_images, withheld
from formats.coco.results import Row

CURVES = 10  # classes with a curve of their own
CONFUSED = 30  # classes with a row of their own in the confusion matrix

_OBJECT = {"segm": "Mask", "box": "Box"}


@dataclass(frozen=True)
class SegScores:
    """Scores of runs on the same images.

    Attributes:
        truth: content of a COCO instances file.
        names: names of the runs.
        rows: COCO results rows of each run.
        kinds: overlaps that all runs can be scored by, masks last.
        scores: of each run, as those of `evaluate.py coco`.
        intervals: (low, high) by metric, of each run.
        paired: run minus reference of each but the first run, as in `evaluate.py compare`.
        point: the reference at its confidence of the best F1.
        cap: detections per image and class that count.
        few: why intervals are withheld, or empty.
    """

    truth: Mapping[str, Any]
    names: tuple[str, ...]
    rows: tuple[Sequence[Row], ...]
    kinds: tuple[IouType, ...]
    scores: tuple[CocoScores, ...]
    intervals: tuple[dict[str, tuple[float, float]], ...]
    paired: tuple[Paired, ...]
    point: OperatingPoint
    cap: int
    few: str

    @property
    def main(self) -> IouType:
        """Masks where all runs predict them, else boxes."""
        return self.kinds[-1]


def score_runs(
    truth: Mapping[str, Any],
    results: Mapping[str, Sequence[Row]],
    *,
    cap: int = 100,
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SegScores:
    """Score runs on the same images.

    Args:
        truth: content of a COCO instances file, which has been checked.
        results: checked rows by the name of the run; the first is the reference.
        cap: detections per image and class that count.
        draws: draws of the bootstrap over images.
        seed: seed of the draws.
        progress: called with the number of finished draws and the number of all draws.

    Raises:
        ValueError: runs have nothing in common that can be scored.
    """
    rows = tuple(results.values())
    scores = tuple(score_results(truth, one, max_dets=cap) for one in rows)
    kinds = tuple(kind for kind in scores[0].curves if all(kind in s.curves for s in scores))
    if not kinds:
        raise ValueError(f"{', '.join(results)}: some predict boxes alone, others masks alone")
    models = [[match_once(truth, one, kind, cap) for kind in kinds] for one in rows]
    drawn = drawn_metrics(models, draws, seed, progress)
    intervals = tuple(
        {name: percentile_interval(values, 0.95) for name, values in one.items()} for one in drawn
    )
    points = [{name: one.metrics[name] for name in drawn[0]} for one in scores]
    paired = tuple(
        paired_differences((points[n], points[0]), (drawn[n], drawn[0]))
        for n in range(1, len(rows))
    )
    if few := too_few_images(len(truth["images"])):
        intervals = tuple({**withheld(one)} for one in intervals)
        nan = float("nan")
        paired = tuple(
            Paired(
                {k: d._replace(low=nan, high=nan, p=nan) for k, d in one.differences.items()},
                one.intervals,
            )
            for one in paired
        )
    point = tuned_point(truth, rows[0], kinds[-1])
    return SegScores(truth, tuple(results), rows, kinds, scores, intervals, paired, point, cap, few)


def tuned_point(truth: Mapping[str, Any], rows: Sequence[Row], kind: IouType) -> OperatingPoint:
    """Return the counts at the confidence of the best F1, a mean over the classes (A830)."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without detections at the first confidence
        point = count_at_confidence(truth, rows, 0.5, 0.5, kind)
        best = point.tuned()
        if np.isnan(best.score) or best.f1 == 0 or best.score == point.score:
            return point
        return count_at_confidence(truth, rows, round(best.score, 3), 0.5, kind)


def headlines(found: SegScores) -> tuple[Headline, ...]:
    """Return the metrics of the summary."""
    names = []
    for kind in reversed(found.kinds):
        task = KIND[kind]
        what = _OBJECT[task]
        names += [(f"{task}_map", f"{what} AP"), (f"{task}_map_50", f"{what} AP50")]
        names += [(f"{task}_map_75", f"{what} AP75")]
    names += [(f"{KIND[found.main]}_ar_{found.cap}", f"{_OBJECT[KIND[found.main]]} AR{found.cap}")]
    return tuple(
        Headline(
            name,
            label,
            tuple(
                value(one.metrics[name], intervals.get(name))
                for one, intervals in zip(found.scores, found.intervals, strict=True)
            ),
        )
        for name, label in names
    )


def value(number: float | None, interval: tuple[float, float] | None = None) -> Value:
    """Return a number of the page; NaN becomes None."""
    low, high = (None, None) if interval is None else interval
    known = [None if x is None or not np.isfinite(x) else float(x) for x in (number, low, high)]
    return Value(*known)


def class_tables(found: SegScores) -> tuple[Table, ...]:
    """Return AP by class and size of each run, and AP and AR by size."""
    tables = [_class_table(found, run) for run in range(len(found.names))]
    return (*tables, _size_table(found))


def _title(found: SegScores, title: str, run: int) -> str:
    return f"{title}: {found.names[run]}" if len(found.names) > 1 else title


def _class_table(found: SegScores, run: int) -> Table:
    scores = found.scores[run]
    task = _OBJECT[KIND[found.main]]
    by_size = _by_class_and_size(found, run)
    others = [k for k in found.kinds if k != found.main]
    columns = ["class", "objects", f"{task} AP", "AP50", "AP75", "small", "medium", "large"]
    columns += [f"{_OBJECT[KIND[kind]]} AP" for kind in others]
    rows: list[tuple[Cell, ...]] = []
    for k, row in enumerate(scores.per_class()):
        main = KIND[found.main]
        numbers = [row[f"{main}_map"], row[f"{main}_map_50"], row[f"{main}_map_75"]]
        numbers += [by_size[area, k] for area in range(1, len(AREAS))]
        numbers += [row[f"{KIND[kind]}_map"] for kind in others]
        rows.append((str(row["name"]), int(row["instances"]), *map(value, numbers)))
    note = "AP by class; small, medium and large are COCO's sizes, up to 32 and 96 pixels squared."
    return Table(
        _title(found, "Average precision by class", run), tuple(columns), tuple(rows), note
    )


def _by_class_and_size(found: SegScores, run: int) -> Any:
    """Return (areas, classes) AP of the main overlap, NaN without objects."""
    arrays = accumulate(found.truth, found.rows[run], found.main, (found.cap,), "fast")
    precision = arrays.precision[..., -1]  # IoU, recall, class, area
    held = precision > -1
    total = np.where(held, precision, 0.0).sum(axis=(0, 1))
    count = held.sum(axis=(0, 1))
    means = np.full(total.shape, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means.T


def _size_table(found: SegScores) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for kind in reversed(found.kinds):
        task = KIND[kind]
        for area in AREAS[1:]:
            for label, name in (("AP", f"{task}_map_{area}"), ("AR", f"{task}_ar_{area}")):
                values = [
                    value(one.metrics[name], intervals.get(name))
                    for one, intervals in zip(found.scores, found.intervals, strict=True)
                ]
                rows.append((f"{_OBJECT[task]} {label}", area, *values))
    columns = ("metric", "size", *(found.names if len(found.names) > 1 else ("value",)))
    return Table("By size of the objects", columns, tuple(rows), "Intervals are of 95 %.")


def curves(found: SegScores) -> tuple[Chart, ...]:
    """Return precision by recall, and precision, recall and F1 by confidence."""
    several = len(found.names) > 1
    task = _OBJECT[KIND[found.main]].lower()
    charts = []
    if several:
        lines = tuple(
            replace(_line(name, *one.pr_curve(found.main)), run=number)
            for number, (name, one) in enumerate(zip(found.names, found.scores, strict=True))
        )
        title = f"Precision by recall at {task} IoU .50, mean over the classes"
        charts.append(Chart("pr_runs", title, "recall", "precision", lines, unit=True))
    for run, scores in enumerate(found.scores):
        lines = tuple(_line(*item) for item in _class_curves(scores, found.main))
        title = _title(found, f"Precision by recall at {task} IoU .50", run)
        charts.append(Chart(f"pr_{run}", title, "recall", "precision", lines, unit=True))
    mean = found.point.mean_curves()
    places = np.linspace(0, len(found.point.confidences) - 1, 201).round().astype(int)
    xs = found.point.confidences[places]
    lines = tuple(
        _line(name, xs, mean[f"mean_{rate}"][places])
        for rate, name in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
    )
    title = _title(found, "Precision, recall and F1 by confidence, mean over the classes", 0)
    charts.append(Chart("confidence", title, "confidence", "value", lines, unit=True))
    held = (chart for chart in charts if any(y is not None for x in chart.lines for y in x.y))
    return tuple(held)


def _class_curves(scores: CocoScores, kind: IouType) -> list[tuple[str, Any, Any]]:
    order = [int(k) for k in np.argsort(-scores.truth_counts, kind="stable")]
    held = [k for k in order if scores.truth_counts[k] > 0]
    found: list[tuple[str, Any, Any]] = []
    if len(held) > 1:
        found.append(("all classes", *scores.pr_curve(kind)))
    recall = scores.pr_curve(kind)[0]
    for k in held[:CURVES]:
        found.append((scores.categories[k][1], recall, scores.curves[kind].precision[0][:, k]))
    return found


def _line(name: str, x: Any, y: Any) -> Line:
    ys = tuple(None if not np.isfinite(v) else round(float(v), 5) for v in y)
    return Line(name, tuple(round(float(v), 5) for v in x), ys)


def confusion(found: SegScores) -> tuple[Matrix, ...]:
    """Return the confusion matrix of each run at the operating point."""
    matrices = []
    for name, rows in zip(found.names, found.rows, strict=True):
        counts, classes = detection_confusion(
            found.truth, rows, found.point.score, found.point.iou, found.main
        )
        counts, classes = _few_classes(counts, classes)
        matrices.append(
            Matrix(
                title=f"Classes at a confidence of {found.point.score:g} and IoU .50",
                run=name,
                row_label="true class",
                column_label="predicted class",
                rows=tuple(classes),
                columns=tuple(classes),
                values=tuple(tuple(float(v) for v in row) for row in counts.tolist()),
                integers=True,
            )
        )
    return tuple(matrices)


def _few_classes(counts: Any, classes: list[str]) -> tuple[Any, list[str]]:
    """Merge the rarest classes where there are too many to be read; the last is the background."""
    number = len(classes) - 1
    if number <= CONFUSED:
        return counts, classes
    weight = counts[:-1].sum(axis=1) + counts[:, :-1].sum(axis=0)
    kept = sorted(np.argsort(-weight, kind="stable")[: CONFUSED - 1].tolist())
    place = np.full(len(classes), len(kept))
    place[kept] = np.arange(len(kept))
    place[-1] = len(kept) + 1
    merged = np.zeros((len(kept) + 2, len(kept) + 2), dtype=np.int64)
    np.add.at(merged, (place[:, None], place[None, :]), counts)
    names = [classes[k] for k in kept]
    return merged, [*names, f"{number - len(kept)} other classes", classes[-1]]


def compare_tables(found: SegScores) -> tuple[Table, ...]:
    """Return the differences of each run and the reference, as `evaluate.py compare` gives them."""
    tables = []
    for name, paired in zip(found.names[1:], found.paired, strict=True):
        rows = tuple(
            (
                metric,
                value(d.second),
                value(d.first),
                value(d.value, (d.low, d.high)),
                value(d.p),
            )
            for metric, d in paired.differences.items()
        )
        columns = ("metric", found.names[0], name, "difference", "p")
        note = "Differences with intervals of 95 % over the same draws of images."
        tables.append(Table(f"{name} minus {found.names[0]}", columns, rows, note))
    return tuple(tables)
