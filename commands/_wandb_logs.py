"""What each command logs to W&B besides its metrics: tables, charts, figures and artifacts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands._wandb import log_evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evaluation.mil.predictions_csv import BagPredictions
    from evaluation.seg.coco_scores import CocoScores
    from formats.coco.predictions import CocoPredictions


def log_coco(
    args: argparse.Namespace,
    record: Mapping[str, Any],
    found: CocoPredictions,
    scores: CocoScores,
) -> None:
    """Log the scores of images: AP by class, precision by recall, the predictions."""
    if args.wandb is None:
        return
    from engine.deploy.checked_coco import image_folder_of
    from evaluation.report.plots import plot_coco_pr
    from formats.coco.results import write_results

    images = args.images or (image_folder_of(args.annotations) if args.ckpt else None)
    log_evaluation(
        args,
        record,
        checkpoints=[args.ckpt] if args.ckpt else (),
        data={"annotations": args.annotations, "images": images},
        predictions={
            "predictions.json": args.predictions or (lambda path: write_results(path, found.rows))
        },
        tables={"per_class": record["per_class"], "errors": list(_errors(record))},
        figures={"curves": lambda: plot_coco_pr(scores)},
    )


def log_bags(
    args: argparse.Namespace,
    record: Mapping[str, Any],
    bags: BagPredictions,
    write: Callable[[Path], object],
    figure: Callable[[], Figure] | None = None,
) -> None:
    """Log the scores of bags: intervals, one row per bag, the confusion matrix.

    Args:
        args: arguments of `evaluate.py mil`.
        record: its record.
        bags: predictions as they were read.
        write: writes the scored bags as a table at a path.
        figure: draws times, values or grades.
    """
    if args.wandb is None:
        return
    charts: dict[str, Callable[[], Any]] = {}
    matrix = record.get("confusion_matrix")
    if matrix is not None and bags.task != "multilabel":
        charts["confusion"] = lambda: _confusion(matrix, bags.names or bags.classes)
    log_evaluation(
        args,
        record,
        checkpoints=[args.ckpt] if args.ckpt else (),
        data={"data": args.data, "features": args.features},
        predictions={"predictions.csv": write if args.ckpt else args.predictions},
        tables={"metrics": list(_intervals(record)), "bags": [_flat(b) for b in record["bags"]]},
        charts=charts,
        figures={} if figure is None else {"curves": figure},
    )


def log_robustness(
    args: argparse.Namespace,
    record: Mapping[str, Any],
    figure: Callable[[], Figure],
) -> None:
    """Log the scores under corruptions: cells, means, intervals, other data sets, heat maps.

    Args:
        args: arguments of `evaluate.py robustness`.
        record: its record.
        figure: draws heat maps and curves.
    """
    if args.wandb is None:
        return
    log_evaluation(
        args,
        record,
        checkpoints=args.ckpt or (),
        data={
            "annotations": args.annotations,
            "images": args.images,
            "data": args.data,
            "features": args.features,
            "patches": args.patches,
        },
        tables={
            "corruptions": _rows(record["corruptions"], ("model", "corruption")),
            "cells": _rows(record["cells"], ("model", "corruption", "severity")),
            "domains": _rows(record["domains"], ("model", "domain")),
            "intervals": list(_ends(record.get("intervals", {}))),
        },
        figures={"degradation": figure},
    )


def log_report(
    args: argparse.Namespace,
    record: Mapping[str, Any],
    page: Path,
    *,
    checkpoints: Sequence[Path] = (),
    data: Mapping[str, Path | None] | None = None,
    predictions: Mapping[str, Path] | None = None,
    own_data: bool = False,
) -> None:
    """Log an HTML report: the page, and what it was made from.

    Args:
        args: arguments of `evaluate.py report`.
        record: its record.
        page: the HTML file.
        checkpoints: checkpoints that predicted, the reference first.
        data: files and folders by name that were predicted.
        predictions: files of predictions by a name that is theirs alone.
        own_data: whether the checkpoints predicted the data of their own trainings.
    """
    log_evaluation(
        args,
        record,
        checkpoints=checkpoints,
        data=data,
        predictions=predictions,
        page=page,
        own_data=own_data,
    )


def _errors(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of error, where errors were looked at."""
    for kind, gains in record.get("errors", {}).items():
        counts = record["error_counts"][kind]
        for name, gain in gains.items():
            yield {"of": kind, "error": name, "count": counts.get(name), "AP50 gained": gain}


def _confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Any:
    import numpy as np

    from loggers.wandb_charts import confusion_chart

    shown = names if len(names) == len(matrix) else [str(c) for c in range(len(matrix))]
    return confusion_chart(np.asarray(matrix), shown, "confusion")


def _intervals(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each metric."""
    for name, value in record["metrics"].items():
        low, high = record["intervals"].get(name) or (None, None)
        yield {"metric": name, "value": value, "low": low, "high": high}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of which lists are columns of their own."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list):
            found |= {f"{name}_{number}": one for number, one in enumerate(value)}
        else:
            found[name] = value
    return found


def _rows(nested: Mapping[str, Any], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return nested dictionaries as rows with equal keys.

    Args:
        nested: metrics by name below one level for each column.
        columns: names of the levels.
    """
    rows = list(_leaves(nested, columns))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in names} for row in rows]


def _ends(intervals: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each interval of each model."""
    for model, metrics in intervals.items():
        for metric, (low, high) in metrics.items():
            yield {"model": model, "metric": metric, "low": low, "high": high}


def _leaves(nested: Mapping[str, Any], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    if not columns:
        yield dict(nested)
        return
    for name, below in nested.items():
        for row in _leaves(below, columns[1:]):
            yield {columns[0]: name, **row}
