"""`evaluate.py convert-features`: rewrite a folder of slide features so that it is read quickly."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import add_bad_data, add_input, add_out, add_output
from commands._tables import progress, report_bad_data, show

SUMMARY = "rewrite a folder of slide features in a format that is read quickly"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_input(parser, "--from", dest="source", required=True, help="folder of feature files")
    add_output(
        parser,
        "--to",
        dest="target",
        folder=lambda args: "the feature files",
        required=True,
        help="folder to write; files of an earlier call are kept, so that it can be continued",
    )
    parser.add_argument(
        "--format",
        dest="form",
        choices=("h5", "safetensors", "npy"),
        required=True,
        help="h5: chunks of 1 MiB, with all other content of h5 files; npy: without coordinates",
    )
    parser.add_argument("--features-key", default="features", help="name of the features")
    parser.add_argument("--coords-key", default="coords", help="name of the coordinates")
    add_bad_data(parser)
    add_out(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert the folder and count the files written, found and left out."""
    from datamodules.mil.feature_conversion import convert_features
    from evaluation.report.record import report
    from formats.feature_arrays import FeatureKeys

    done = convert_features(
        args.source,
        args.target,
        args.form,
        FeatureKeys(args.features_key, args.coords_key),
        args.bad_data,
        progress("files written", every=20),
    )
    counts = {
        "files written": done.written,
        "files already there": done.present,
        "files without their coordinates": done.without_coords,
    }
    show(f"written: {args.target}", ["what", "count"], counts.items())
    extra: dict[str, Any] = {**report_bad_data(done.problems)}
    return report(sys.argv, counts, **extra)
