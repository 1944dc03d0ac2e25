"""`evaluate.py froc`: sensitivity for lesions against false positives per slide, as CAMELYON16."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import add_features, add_input, add_out, resolution
from commands._tables import show

SUMMARY = "CAMELYON16's FROC of lesions on slides"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_input(parser, "--detections", required=True, help="folder of <slide>.csv: probability,x,y")
    add_input(parser, "--annotations", required=True, help="folder of <slide>.xml or .geojson")
    parser.add_argument(
        "--mpp", type=resolution, default=0.243, help="micrometres per pixel of level 0 (.243)"
    )
    add_out(parser)
    add_input(parser, "--patches", help="attention.csv, for AUROC and AUPRC of patches")
    parser.add_argument("--patch-score", default="attention", help="its column (attention)")
    add_features(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare detections with outlines and print the sensitivities."""
    from evaluation.report.record import report
    from evaluation.wsi.froc import froc
    from evaluation.wsi.froc_files import compare_folders, patch_metrics, read_patch_scores

    if (args.patches is None) != (args.features is None):
        raise ValueError("--patches needs --features, the folder of the features, and the reverse")
    slides, notes = compare_folders(args.detections, args.annotations, args.mpp)
    curve = froc([slide.detections for slide in slides])
    metrics = curve.metrics()
    if args.patches is not None:
        scores = read_patch_scores(args.patches, args.patch_score)
        metrics |= patch_metrics(slides, scores, args.features)
    lesions = [row for slide in slides for row in slide.rows()]
    isolated = len(lesions) - curve.lesions
    title = (
        f"{args.detections}: {len(slides)} slides, {curve.lesions} lesions, and {isolated} of "
        "isolated tumour cells that do not count"
    )
    show(title, ["metric", "value"], metrics.items())
    for note in notes:
        print(f"note: {note}")
    false = {slide.slide: len(slide.detections.false) for slide in slides}
    extra: dict[str, Any] = {
        "lesions": curve.lesions,
        "isolated_cells": isolated,
        "slides": len(slides),
        "mpp": args.mpp,
        "false_positives": false,
        "found": lesions,
        "curve": {"false_positives_per_slide": curve.rates, "sensitivity": curve.sensitivities},
        "notes": notes,
    }
    files = [args.patches] if args.patches is not None else []
    return report(sys.argv, metrics, files=files, **extra)
