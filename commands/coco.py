"""`evaluate.py coco`: COCO metrics of a checkpoint or a results file."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import (
    add_bad_data,
    add_coco_source,
    add_out,
    add_output,
    inference_changes,
    positive,
)
from commands._lightning import import_lightning
from commands._tables import ground_truth, most_of_a_class, show, tell_skipped

SUMMARY = "COCO AP and AR of boxes and masks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_bad_data(parser)
    add_coco_source(parser)
    parser.add_argument(
        "--max-dets", type=positive, nargs="+", help="default: the checkpoint's, or 1 10 100"
    )
    parser.add_argument("--backend", choices=("fast", "pycocotools"), default="fast")
    parser.add_argument(
        "--class-agnostic", action="store_true", help="score all categories as one class"
    )
    parser.add_argument("--per-class", action="store_true", help="also print AP by class")
    add_output(parser, "--save-predictions", help="write the results file (with --ckpt)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Score a checkpoint or a results file against COCO ground truth."""
    from evaluation.report.record import report
    from evaluation.seg.coco import evaluate_results
    from formats.coco.results import merge_categories, read_results
    from formats.files import write_json

    files = [args.annotations, args.predictions or args.ckpt]
    inference_changes(args)  # refuses them without a checkpoint
    if args.save_predictions and not args.ckpt:
        raise ValueError("--save-predictions writes what a checkpoint predicts; give --ckpt")
    if args.ckpt:
        import_lightning()
        from engine.deploy.predict import predict_coco

        predicted = predict_coco(
            args.ckpt,
            args.annotations,
            args.images,
            args.batch_size,
            args.bad_data,
            scale=args.scale,
            inference=inference_changes(args),
        )
        truth, rows, skipped = predicted.ground_truth, predicted.rows, predicted.problems
        max_dets = args.max_dets or predicted.max_dets
        if args.save_predictions:
            write_json(args.save_predictions, rows)
    else:
        truth, left_out = ground_truth(args)
        known = {"images": truth["images"]} if args.class_agnostic else truth
        rows, dropped = read_results(args.predictions, known, args.bad_data)
        skipped = left_out + dropped
        max_dets = args.max_dets or [1, 10, 100]
    if args.class_agnostic:
        truth, rows = merge_categories(truth, rows)
    scores = evaluate_results(truth, rows, max_dets=max_dets, backend=args.backend)
    cap, most = scores.max_dets[-1], most_of_a_class(rows)
    if args.ckpt and most > cap:
        print(
            f"note: up to {most} predictions of a picture and class, of which AP counts the best "
            f"{cap}; more by --max-dets"
        )
    title = f"{files[1]} on {args.annotations} ({len(truth['images'])} pictures)"
    show(title, ["metric", "value"], scores.metrics.items())
    if args.per_class:
        per_class = scores.per_class()
        if per_class:
            show("by class", list(per_class[0]), [list(row.values()) for row in per_class])
    extra: dict[str, Any] = {"per_class": scores.per_class(), "skipped": tell_skipped(skipped)}
    return report(sys.argv, scores.metrics, files=files, **extra)
