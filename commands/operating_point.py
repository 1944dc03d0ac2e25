"""`evaluate.py operating-point`: models at one confidence threshold, side by side."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands._arguments import (
    add_bad_data,
    add_coco_source,
    add_out,
    add_output,
    add_timing,
    confidence,
    figure,
    inference_changes,
    overlap,
    positive,
    seed,
)
from commands._sources import coco_predictions, ground_truth
from commands._tables import report_bad_data, show
from commands._timing import print_latency_notes, time_checkpoints, timing_plan

if TYPE_CHECKING:
    from evaluation.seg.operating_point import OperatingPoint
    from formats.coco.predictions import CocoPredictions

SUMMARY = "precision, recall and F1 at a confidence, one or two models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_bad_data(parser, annotations=True)
    add_coco_source(parser, nargs="+")
    parser.add_argument(
        "--score", type=confidence, default=0.5, help="lowest confidence that counts"
    )
    parser.add_argument("--iou", type=overlap, default=0.5, help="lowest IoU of a match")
    parser.add_argument(
        "--iou-type", choices=("segm", "bbox"), help="default: segm if there are masks"
    )
    parser.add_argument(
        "--max-dets",
        type=positive,
        help="detections per image for AP; default: 100, or more if a checkpoint returns more",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap")
    add_output(
        parser,
        "--curves",
        type=figure,
        metavar="FILE.png",
        help="draw P, R, F1 over all confidences",
    )
    parser.add_argument("--wandb", metavar="PROJECT", help="log the table to W&B")
    parser.add_argument("--wandb-mode", choices=("offline", "online"), default="offline")
    parser.add_argument("--latency", action="store_true", help="also time the checkpoints")
    add_timing(parser)


@dataclass(frozen=True)
class _Model:
    """Predictions of a source and their scores."""

    found: CocoPredictions
    point: OperatingPoint
    summary: dict[str, Any]


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Score models at one confidence; for two models, also bootstrap their difference."""
    from evaluation.report.record import report
    from evaluation.seg.operating_point import paired_bootstrap
    from evaluation.statistics.sample_size import too_few_images

    if args.latency and not args.ckpt:
        raise ValueError("--latency times checkpoints; give --ckpt instead of --predictions")
    inference_changes(args)  # raises without a checkpoint
    sources = args.ckpt or args.predictions
    _check_sources(sources)
    plan = timing_plan(args, (1,)) if args.latency else None
    truth, skipped = ground_truth(args)
    found = {str(source): coco_predictions(args, source, truth) for source in sources}
    skipped += tuple(problem for one in found.values() for problem in one.problems)
    kind = args.iou_type or _iou_type(found, truth)
    models = {
        source: _score(args, source, one, _own_truth(one, truth), kind)
        for source, one in found.items()
    }
    points = [one.point for one in models.values()]
    few = too_few_images(len(truth["images"]))
    difference = {}
    if len(points) == 2:
        unknown = dict.fromkeys(("low", "high"), float("nan")) if few else {}
        difference = {
            k: v._asdict() | unknown
            for k, v in paired_bootstrap(points[0], points[1], seed=args.seed).items()
        }
        lines = [(k, *v.values()) for k, v in difference.items()]
        show("first minus second, paired", ["metric", "value", "2.5 %", "97.5 %"], lines)
    if few:
        print(f"note: {few}")
    times = {row["model"]: row for row in time_checkpoints(args, plan)} if plan else {}
    table = _table(args, truth, models, times)
    extra = {
        "models": {source: one.summary for source, one in models.items()},
        "difference": difference,
        "latency": times,
        "table": table,
        "notes": [few] if few else [],
        "curves": _curves(args, models),
        **report_bad_data(skipped),
    }
    metrics = {source: one.summary["metrics"] for source, one in models.items()}
    return report(sys.argv, metrics, files=[args.annotations, *sources], seed=args.seed, **extra)


def _own_truth(found: CocoPredictions, truth: dict[str, Any]) -> dict[str, Any]:
    """Return the ground truth in which a model's categories exist: merged if it merges them."""
    declared = {category["id"] for category in truth["categories"]}
    own = {category["id"] for category in found.ground_truth["categories"]}
    return truth if own <= declared else found.ground_truth


def _check_sources(sources: Sequence[Path]) -> None:
    """Reject repeated or missing files before any model predicts."""
    if len({str(source) for source in sources}) < len(sources):
        raise ValueError("a file is given twice; name each model once")
    for source in sources:
        if not source.is_file():
            raise ValueError(f"{source}: no such file; name checkpoints or COCO results")


def _iou_type(found: Mapping[str, CocoPredictions], truth: Mapping[str, Any]) -> Any:
    """Return the IoU type of all sources; sources without predictions do not count (A259).

    Raises:
        ValueError: some sources have masks and others only boxes.
    """
    kinds = {
        source: "segm" if all("segmentation" in row for row in one.rows) else "bbox"
        for source, one in found.items()
        if one.rows
    }
    by_kind = {kind: source for source, kind in kinds.items()}
    if len(by_kind) > 1:
        raise ValueError(
            f"{by_kind['segm']} holds masks and {by_kind['bbox']} boxes without masks, so they "
            "cannot be matched by the same IoU; compare all by their boxes with --iou-type bbox"
        )
    if by_kind:
        return next(iter(by_kind))
    return "segm" if all(row.get("segmentation") for row in truth["annotations"]) else "bbox"


def _score(
    args: argparse.Namespace, source: str, found: CocoPredictions, truth: dict[str, Any], kind: Any
) -> _Model:
    """Count matches at the confidence and print the metrics."""
    from evaluation.seg.operating_point import count_at_confidence
    from evaluation.statistics.sample_size import too_few_images, withheld

    # A258: all detections from the tiles of a large image count.
    cap = max(found.max_dets or 0, found.most_per_image, 300, args.max_dets or 0)
    counted = Counter(row["image_id"] for row in found.rows if row["score"] >= args.score)
    if (most := max(counted.values(), default=0)) > cap:
        print(
            f"note: {source} has up to {most} predictions per image of at least {args.score:g}; "
            f"the best {cap} count, raise --max-dets to count more"
        )
    point = count_at_confidence(truth, found.rows, args.score, args.iou, kind, cap)
    summary = point.summary(seed=args.seed)
    if too_few_images(summary["num_images"]):
        summary["intervals_95"] = withheld(summary["intervals_95"])
    low_high = summary["intervals_95"]
    title = f"{source}: score >= {args.score:g}, {kind} IoU >= {args.iou:g}"
    lines = [(name, value, *low_high[name]) for name, value in summary["metrics"].items()]
    show(title, ["metric", "value", "2.5 %", "97.5 %"], lines)
    classes = summary["per_class"]
    show("by class", list(classes[0]), [list(row.values()) for row in classes])
    return _Model(found, point, summary)


def _table(
    args: argparse.Namespace,
    truth: dict[str, Any],
    models: Mapping[str, _Model],
    times: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return one row per model; print the table and, with --wandb, log it."""
    from evaluation.report.model_table import letter, model_row, shown_rows
    from evaluation.seg.coco import score_results

    # A253: one cap for all models, large enough that no checkpoint's AP is cut.
    found = {source: one.found for source, one in models.items()}
    most = max(max(one.max_dets or 0, one.most_per_class) for one in found.values())
    cap = args.max_dets or max(100, most)
    rows = []
    for source, one in found.items():
        scores = score_results(_own_truth(one, truth), one.rows, max_dets=cap).metrics
        dataset, summary = str(args.annotations), models[source].summary
        timed = times.get(source)
        rows.append(model_row(source, dataset, summary, scores, cap, one.parameters, timed))
    for number, source in enumerate(found):
        print(f"{letter(number)}: {source}")
    title = f"{args.annotations}, confidence {args.score:g}, AP of at most {cap} detections"
    show(title, *shown_rows(rows), width=160)
    if times:
        print_latency_notes(times.values())
    if args.wandb is not None:
        from loggers.wandb_models import WandbOptions, log_model_table

        options = WandbOptions(project=args.wandb, mode=args.wandb_mode)
        facts = {"annotations": str(args.annotations), "seed": args.seed}
        print(log_model_table(options, "operating_point", rows, facts))
    return rows


def _curves(args: argparse.Namespace, models: Mapping[str, _Model]) -> dict[str, Any]:
    """Return the curves of all models for JSON and, with --curves, draw them."""
    from evaluation.seg.operating_point import CONFIDENCES

    if args.curves is not None:
        from evaluation.report.model_table import letter
        from evaluation.report.plots import plot_operating_points, save_figure

        names = {
            f"{letter(n)}: {source if len(source) <= 60 else '…' + source[-59:]}": one.point
            for n, (source, one) in enumerate(models.items())
        }
        print(f"written: {save_figure(plot_operating_points(names), args.curves)}")
    curves = {source: one.point.curve_record() for source, one in models.items()}
    return {"confidence": CONFIDENCES.tolist(), "models": curves}
