"""Intervals of the numbers of `evaluate.py robustness`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands._arguments import positive
from commands._tables import progress_with_time

if TYPE_CHECKING:
    from evaluation.robustness.grid import Grid
    from evaluation.robustness.intervals import Intervals
    from evaluation.statistics.paired import Difference


def add_interval_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the bootstrap."""
    parser.add_argument(
        "--draws", type=positive, default=1000, help="bootstrap draws of images or bags"
    )
    parser.add_argument(
        "--no-intervals",
        action="store_true",
        help="compute no intervals; predictions are kept for a later call all the same",
    )


def intervals_of(
    args: argparse.Namespace,
    grids: Mapping[str, Grid],
    origins: Mapping[Path, Mapping[str, Any] | None],
    benchmark: Mapping[str, Sequence[str]] | None = None,
) -> Intervals:
    """Return the intervals of all models, without any where the user wants none."""
    from evaluation.robustness.intervals import Intervals, find_intervals

    if args.no_intervals:
        return Intervals(None)
    tell = progress_with_time("cells resampled")
    return find_intervals(
        grids, origins, args.reference, benchmark=benchmark, draws=args.draws, progress=tell
    )


def interval_record(args: argparse.Namespace, found: Intervals) -> dict[str, Any]:
    """Return the entries of the JSON record; the keys are those of `compare`."""
    compared = bool(found.difference or found.domain_difference)
    return {
        "draws": args.draws if found.intervals else None,
        "intervals": found.intervals,
        "difference": {m: _plain(one) for m, one in found.difference.items()},
        "difference_from": found.first if compared else None,
        "domain_intervals": found.domains,
        "domain_difference": {
            model: {name: _plain(one) for name, one in parts.items()}
            for model, parts in found.domain_difference.items()
        },
    }


def _plain(differences: Mapping[str, Difference]) -> dict[str, dict[str, float]]:
    keys = ("value", "low", "high", "p")
    return {name: {key: getattr(one, key) for key in keys} for name, one in differences.items()}
