"""The arguments of commands that score times: ``--tau``, ``--times`` and ``--groups``."""

from __future__ import annotations

import argparse

from commands._arguments import positive


def add_time_arguments(
    parser: argparse.ArgumentParser, *, folds: bool = False, groups: bool = True
) -> None:
    """Add the arguments of times.

    Args:
        parser: parser of the command.
        folds: whether every fold of a cross-validation is scored by itself, at common times.
        groups: whether there are risk groups.
    """
    training = "training times of each fold" if folds else "training times"
    parser.add_argument(
        "--tau",
        type=float,
        help="of times: events from here on do not count for Uno's C (default: .9 quantile of the "
        f"{training})",
    )
    scored = "all event times" if folds else "the event times"
    parser.add_argument(
        "--times",
        type=float,
        nargs="+",
        help=f"of times: those of Brier scores and AUCs (default: deciles of {scored})",
    )
    if groups:
        cut = ", cut at quantiles of a fold's training risks" if folds else ""
        parser.add_argument(
            "--groups", type=positive, help=f"of times: number of risk groups{cut} (default: 2)"
        )
