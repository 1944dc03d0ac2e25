"""Logging of an evaluation to W&B, for the commands that take ``--wandb PROJECT``.

`add_wandb` adds the arguments and `log_evaluation` does the work. Without ``--wandb`` nothing is
imported, and no failure of W&B changes the exit code of a command.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)


def add_wandb(parser: argparse.ArgumentParser) -> None:
    """Add ``--wandb PROJECT`` and ``--wandb-mode``."""
    parser.add_argument(
        "--wandb",
        metavar="PROJECT",
        help="log to W&B, in the group of the training that is scored",
    )
    parser.add_argument("--wandb-mode", choices=("offline", "online"), default="offline")


def log_evaluation(
    args: argparse.Namespace,
    record: Mapping[str, Any],
    *,
    checkpoints: Sequence[Path] = (),
    data: Mapping[str, Path | None] | None = None,
    predictions: Mapping[str, Path | Callable[[Path], object]] | None = None,
    page: Path | None = None,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    charts: Mapping[str, Callable[[], Any]] | None = None,
    figures: Mapping[str, Callable[[], Figure] | Path] | None = None,
) -> None:
    """Log the result of a command to W&B and print where; do nothing without ``--wandb``.

    Args:
        args: arguments with those of `add_wandb`; ``args.command`` names the run.
        record: the record that the command returns (`evaluation.report.record.report`); its
            ``metrics`` are logged, and its command, files, versions and seed are the configuration.
        checkpoints: checkpoints that were scored: artifacts ``model``. The first one's training
            gives the group.
        data: files and folders by name that were scored: artifact ``dataset``, by reference. None
            among them is left out.
        predictions: name -> a file that exists, or a function that writes one at a path: artifact
            ``predictions``.
        page: an HTML report: artifact ``report``, shown in the run if it is small.
        tables: name -> rows with equal keys.
        charts: name -> function that returns a native chart (`loggers.wandb_charts`).
        figures: name -> function that returns a matplotlib figure, or a PNG file.
    """
    if args.wandb is None:
        return
    from loggers.wandb_evaluation import Evaluation, WandbOptions
    from loggers.wandb_evaluation import log_evaluation as send

    sources = {name: path for name, path in (data or {}).items() if path is not None}
    facts = {key: record[key] for key in ("command", "files", "versions", "seed") if key in record}
    try:
        evaluation = Evaluation(
            args.command,
            record["metrics"],
            facts,
            tuple(checkpoints),
            sources,
            _hash(sources),
            predictions or {},
            page,
            tables or {},
            charts or {},
            figures or {},
        )
        print(send(WandbOptions(project=args.wandb, mode=args.wandb_mode), evaluation))
    except Exception as error:  # what a command has computed is worth more than its copy in W&B
        _log.warning("W&B: the evaluation was not logged (%s: %s)", type(error).__name__, error)


def _hash(sources: Mapping[str, Path]) -> str:
    """Return a hash of files and folders that does not depend on their place."""
    from datamodules.fingerprint import content_hash

    return content_hash(sources) if sources else ""
