"""`evaluate.py compare`: compare two models on the same bags or images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from commands._arguments import _positive, _seed, _threshold
from commands._tables import progress, show, tell_skipped


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "--predictions",
        type=Path,
        nargs=2,
        required=True,
        metavar=("A", "B"),
        help="CSV of bags or COCO results, or the run folder that holds them",
    )
    compare.add_argument("--annotations", type=Path, help="COCO ground truth, for pictures")
    compare.add_argument(
        "--threshold",
        type=_threshold,
        nargs="+",
        default=(),
        help="for both or for each; default: that of the run's checkpoint, or 0.5",
    )
    compare.add_argument(
        "--max-dets", type=_positive, nargs="+", default=(), help="of pictures; default: 1 10 100"
    )
    compare.add_argument("--draws", type=_positive, default=1000, help="bootstrap draws")
    compare.add_argument("--seed", type=_seed, default=0, help="seed of the bootstrap")


def run_compare(args: argparse.Namespace) -> dict[str, Any]:
    """Compare two models on the same bags or pictures, draw by draw."""
    from evaluation.comparison.compare import Settings, compare_files
    from evaluation.report.record import report

    tell = progress("draws")
    how = Settings(args.threshold, args.max_dets, args.draws, args.seed, args.bad_data, tell)
    found = compare_files(args.predictions, args.annotations, how)
    for part in found.tables:
        show(*part)
    for note in found.notes:
        print(f"note: {note}")
    extra = {"skipped": tell_skipped(found.problems), "notes": found.notes, **found.extra}
    return report(sys.argv, found.metrics, files=found.files, seed=args.seed, **extra)
