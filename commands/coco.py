"""`evaluate.py coco`: COCO metrics of a checkpoint or a results file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from commands._arguments import (
    add_bad_data,
    add_coco_source,
    add_out,
    add_output,
    inference_changes,
    positive,
)
from commands._sources import coco_predictions
from commands._tables import report_bad_data, show
from commands._wandb import add_wandb
from commands._wandb_logs import log_coco

if TYPE_CHECKING:
    from evaluation.seg.coco_scores import CocoScores
    from formats.coco.results import Row

SUMMARY = "COCO AP and AR of boxes and masks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_bad_data(parser, annotations=True)
    add_coco_source(parser)
    parser.add_argument(
        "--max-dets", type=positive, nargs="+", help="default: the checkpoint's, or 1 10 100"
    )
    parser.add_argument("--backend", choices=("fast", "pycocotools"), default="fast")
    parser.add_argument(
        "--class-agnostic", action="store_true", help="score all categories as one class"
    )
    parser.add_argument(
        "--light",
        choices=("dark", "normal"),
        help="with --ckpt: show the images in the dark or not, instead of low_light.evaluate",
    )
    parser.add_argument("--per-class", action="store_true", help="also print AP by class")
    parser.add_argument(
        "--errors",
        action="store_true",
        help="also the AP50 that each kind of error costs, and the calibration of the scores",
    )
    add_output(parser, "--save-predictions", help="write the results file (with --ckpt)")
    add_wandb(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Score a checkpoint or a results file against COCO ground truth."""
    from evaluation.report.record import report
    from evaluation.seg.coco import score_results
    from formats.coco.results import write_results

    inference_changes(args)  # raises without a checkpoint
    if args.save_predictions and not args.ckpt:
        raise ValueError("--save-predictions writes what a checkpoint predicts; give --ckpt")
    if args.light and not args.ckpt:
        raise ValueError("--light changes the images that a checkpoint predicts; give --ckpt")
    source, light = args.ckpt or args.predictions, None
    if args.light:
        from datamodules.transforms.raw.data import LightChange

        light = LightChange(args.light)
    found = coco_predictions(args, source, any_category=args.class_agnostic, light=light)
    if args.save_predictions:
        write_results(args.save_predictions, found.rows)
    if args.class_agnostic:
        found = found.class_agnostic()
    elif found.whole_truth is not None:
        print(
            "note: the checkpoint was trained on known categories, and only these are scored; "
            "`python evaluate.py open-world` scores novel ones too"
        )
    truth, max_dets = found.ground_truth, args.max_dets or found.max_dets or 100
    scores = score_results(truth, found.rows, max_dets=max_dets, backend=args.backend)
    cap, most = scores.max_dets[-1], found.most_per_class
    if most > cap:
        print(
            f"note: up to {most} predictions per image and class, of which AP counts the best "
            f"{cap}; raise --max-dets to count more"
        )
    title = f"{source} on {args.annotations} ({len(truth['images'])} images)"
    show(title, ["metric", "value"], scores.metrics.items())
    per_class = scores.per_class()
    if args.per_class and per_class:
        show("by class", list(per_class[0]), [list(row.values()) for row in per_class])
    errors = _errors(truth, found.rows, scores) if args.errors else {}
    extra: dict[str, Any] = {"per_class": per_class, **report_bad_data(found.problems), **errors}
    record = report(sys.argv, scores.metrics, files=[args.annotations, source], **extra)
    log_coco(args, record, found, scores)
    return record


def _errors(truth: Mapping[str, Any], rows: Sequence[Row], scores: CocoScores) -> dict[str, Any]:
    """Print the errors by kind and the calibration, and return their part of the record."""
    from evaluation.report.errors import calibration_of_matches, detection_errors, error_summary
    from evaluation.seg.coco_scores import KIND
    from evaluation.statistics.reliability_parts import band_note

    cap = scores.max_dets[-1]
    record: dict[str, Any] = {"errors": {}, "error_counts": {}, "calibration": None}
    for iou_type in sorted(scores.curves, reverse=True):  # masks first, whose scores are judged
        images, kind = detection_errors(truth, rows, iou_type, max_dets=cap), KIND[iou_type]
        found = error_summary(truth, images)
        record["errors"][kind] = found.gains
        record["error_counts"][kind] = found.counts
        title = f"AP50 gained without an error, {kind}, best {cap} of each image: {found.ap50:.4f}"
        lines = [(name, found.counts.get(name), gain) for name, gain in found.gains.items()]
        show(title, ["error", "count", "AP50 gained"], lines)
        if record["calibration"] is None:
            calibration = calibration_of_matches(images)
            if calibration is None:
                continue
            record["calibration"] = {"of": kind, **calibration}  # A822
            names = ("ece", "ece_equal_mass", "mce", "brier", "log_loss")
            numbers = [(name, calibration[name]) for name in names]
            title = f"calibration: scores and matches at IoU 0.5, {kind}"
            show(title, ["metric", "value"], numbers)
            print(band_note(calibration["band"]))
            for name, reason in calibration["undefined"].items():
                print(f"note: {name} is undefined: {reason}")
    if record["calibration"] is None:
        print("note: no calibration: there is no detection, or a score is outside [0, 1]")
    return record
