"""Charts of ``metrics.csv``: losses, metrics, learning rate, speed and memory of trainings."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.report.page.content import Chart, Line

POINTS = 400  # of a line; longer ones are averaged

Series = dict[str, list[tuple[float, float]]]  # column -> (step, value)


@dataclass(frozen=True)
class TrainingLog:
    """What the table of a training says.

    Attributes:
        series: (step, value) by column, in order; ``step`` counts optimizer steps.
        steps: optimizer steps taken, None if unknown.
        seconds: time of the steps, without validation; None if it was not logged.
        memory_mib: peak of the GPU, else of the host; None if it was not logged.
        last_epoch: last epoch that was validated or ended, None if unknown.
        epoch_of_step: epoch by step, where it was logged.
    """

    series: Series
    steps: int | None
    seconds: float | None
    memory_mib: float | None
    last_epoch: int | None


def read_log(path: Path) -> TrainingLog:
    """Read a ``metrics.csv``; one without rows, or a missing one, gives no series."""
    series: Series = defaultdict(list)
    last_epoch, last = None, 0.0
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                step = _number(row.pop("step", None))
                epoch = _number(row.pop("epoch", None))
                last_epoch = last_epoch if epoch is None else max(int(epoch), last_epoch or 0)
                last = last if step is None else max(last, step)
                for name, text in row.items():
                    if name and step is not None and (value := _number(text)) is not None:
                        series[name].append((step, value))
    steps = int(last) + 1 if series else None
    memory = [v for name in _memory_columns(series) for _, v in series[name]]
    return TrainingLog(
        dict(series), steps, _seconds(series, steps), max(memory, default=None), last_epoch
    )


def _memory_columns(series: Mapping[str, object]) -> list[str]:
    for name in ("memory/cuda_mib", "memory/host_mib"):
        if name in series:
            return [name]
    return []


def _seconds(series: Series, steps: int | None) -> float | None:
    """Return the sum of the times of steps, each the mean since the logged step before."""
    total, before = 0.0, -1.0
    for step, seconds in series.get("time/step", ()):
        total += seconds * max(0.0, step - before)
        before = step
    return total if total and steps else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def training_charts(logs: Sequence[tuple[str, TrainingLog]]) -> tuple[Chart, ...]:
    """Return the charts of one or several trainings, without those of no data.

    Args:
        logs: name and log of each run.
    """
    several = len(logs) > 1
    charts = [
        _chart("loss", "Loss", "loss", logs, _totals, log_y=True),
        *(() if several else (_chart("loss_terms", "Loss terms", "loss", logs, _terms),)),
        *_metric_charts(logs),
        _chart("learning_rate", "Learning rate", "learning rate", logs, _rates),
        _chart("gradient_norm", "Gradient norm", "norm", logs, _named("grad_norm/total"), True),
    ]
    return tuple(_named_alone(chart, several) for chart in charts if chart.lines)


def _named_alone(chart: Chart, several: bool) -> Chart:
    """Put the name of a single line, which has no legend, into the title."""
    plain = chart.key in ("train_learning_rate", "train_gradient_norm") and not several
    if len(chart.lines) > 1 or plain:
        return chart
    return replace(chart, title=f"{chart.title} ({chart.lines[0].name})")


def _metric_charts(logs: Sequence[tuple[str, TrainingLog]]) -> list[Chart]:
    """Return charts of validation metrics: AP of masks, AP of boxes, metrics of bags, others."""
    names = {name for _, log in logs for name in log.series if name.startswith("val/")}
    names -= {name for name in names if name.removeprefix("val/").startswith("loss")}
    groups = {
        "segm_map": ("Mask AP in validation", [n for n in names if n.startswith("val/segm_map")]),
        "box_map": ("Box AP in validation", [n for n in names if n.startswith("val/box_map")]),
        "recall": ("Average recall in validation", [n for n in names if "_ar_" in n]),
    }
    held = {name for _, members in groups.values() for name in members}
    groups["metrics"] = ("Metrics in validation", sorted(names - held))
    if len(logs) > 1:  # one line a run tells them apart
        groups = {
            key: _single(title, members)
            for key, (title, members) in groups.items()
            if members and key != "recall"
        }
    return [
        _chart(f"val_{key}", title, "value", logs, _members(members))
        for key, (title, members) in groups.items()
    ]


def _single(title: str, members: Sequence[str]) -> tuple[str, list[str]]:
    """Return the title and the name of the metric that stands for a group."""
    name = next((n for n in sorted(members) if n in _MAIN), min(members))
    return f"{title}: {name.removeprefix('val/')}", [name]


_MAIN = {"val/segm_map", "val/box_map", "val/bag_auroc", "val/bag_c_index", "val/bag_r2"}


def _chart(
    key: str,
    title: str,
    y_label: str,
    logs: Sequence[tuple[str, TrainingLog]],
    chosen: object,
    log_y: bool = False,
) -> Chart:
    lines = []
    for number, (run, log) in enumerate(logs):
        assert callable(chosen)
        owner = number if len(logs) > 1 else None
        for label, column in chosen(log.series).items():
            points = _thinned(log.series[column])
            name = f"{run}: {label}" if len(logs) > 1 else label
            xs = tuple(x for x, _ in points)
            ys: tuple[float | None, ...] = tuple(y for _, y in points)
            lines.append(Line(name, xs, ys, dashed=column.startswith("val/loss"), run=owner))
    positive = all(y is not None and y > 0 for line in lines for y in line.y)
    return Chart(
        f"train_{key}", title, "optimizer step", y_label, tuple(lines), log_y=log_y and positive
    )


def _totals(series: Series) -> dict[str, str]:
    names = {"train/loss": "training", "val/loss": "validation"}
    return {label: column for column, label in names.items() if column in series}


def _terms(series: Series) -> dict[str, str]:
    found = sorted(name for name in series if name.startswith(("train/loss_", "val/loss_")))
    several = len({name.partition("/")[2] for name in found}) > 1  # a single one is the loss
    return {name.replace("/loss_", " ", 1): name for name in found} if several else {}


def _rates(series: Series) -> dict[str, str]:
    return {
        name.partition("/")[2] or name: name for name in sorted(series) if name.startswith("lr-")
    }


def _named(column: str) -> object:
    return lambda series: {column.rpartition("/")[2]: column} if column in series else {}


def _members(names: Sequence[str]) -> object:
    return lambda series: {n.removeprefix("val/"): n for n in sorted(names) if n in series}


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average neighbouring points so that at most ``POINTS`` are left."""
    size = math.ceil(len(points) / POINTS)
    if size <= 1:
        return list(points)
    blocks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(block[len(block) // 2][0], sum(y for _, y in block) / len(block)) for block in blocks]
