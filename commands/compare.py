"""`evaluate.py compare`: compare two models on the same bags or images."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import add_bad_data, add_input, add_out, decision_threshold, positive, seed
from commands._tables import progress, report_bad_data, show
from commands.targets._times import add_time_arguments

SUMMARY = "two models on the same bags or images, or two cross-validations on the same folds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser, json_inputs="predictions")
    add_bad_data(parser, annotations=True)
    add_input(
        parser,
        "--predictions",
        nargs=2,
        required=True,
        metavar=("A", "B"),
        help="CSV of bags or COCO results, or the run folder that contains them; or two results of "
        "mil-cv (--out, or tables with a column fold)",
    )
    add_input(parser, "--annotations", help="COCO ground truth, for images")
    parser.add_argument(
        "--threshold",
        type=decision_threshold,
        nargs="+",
        default=(),
        help="one for both or one for each; default: the threshold of the run's checkpoint, or 0.5",
    )
    parser.add_argument(
        "--max-dets", type=positive, nargs="+", default=(), help="for images; default: 1 10 100"
    )
    _add_bag_arguments(parser)
    parser.add_argument("--draws", type=positive, default=1000, help="bootstrap draws")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap")


def _add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", choices=("ordinal",), help="of bags: read classes as ordered grades"
    )
    parser.add_argument(
        "--unit",
        choices=("bag", "patient"),
        default="bag",
        help="compare on bags, or on patients by the pooled predictions of their bags",
    )
    parser.add_argument(
        "--pool",
        choices=("mean", "max"),
        help="with --unit patient: mean of the bags' probabilities (default), or the largest",
    )
    add_time_arguments(parser, groups=False)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compare two models on the same bags or images."""
    from evaluation.comparison.compare import compare_files
    from evaluation.comparison.results import Settings
    from evaluation.report.record import report

    settings = Settings(
        args.threshold,
        args.max_dets,
        args.draws,
        args.seed,
        args.bad_data,
        progress("draws"),
        task=args.task,
        unit=args.unit,
        pool=args.pool,
        times=args.times or (),
        tau=args.tau,
    )
    found = compare_files(args.predictions, args.annotations, settings)
    for part in found.tables:
        show(*part)
    for note in found.notes:
        print(f"note: {note}")
    extra = {**report_bad_data(found.problems), "notes": found.notes, **found.extra}
    return report(sys.argv, found.metrics, files=found.files, seed=args.seed, **extra)
