"""`evaluate.py mil-cv`: cross-validation of a recipe."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import (
    add_bad_data,
    add_features,
    add_input,
    add_out,
    positive,
    seed,
)
from commands._tables import progress, report_bad_data, show

SUMMARY = "cross-validation of a MIL recipe on one file of bags"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_bad_data(parser)
    add_input(
        parser,
        "--config",
        action="append",
        required=True,
        help="recipe, then overlays; values may follow, e.g. --trainer.max_epochs 50",
    )
    add_input(parser, "--data", required=True, help="npz of bags, or CSV of slides")
    parser.add_argument("--folds", type=positive, help="default: 10, or the folds of the file")
    parser.add_argument(
        "--repeats", type=positive, help="default: 5, or fewer if the file has fewer"
    )
    parser.add_argument(
        "--one-by-one", action="store_true", help="train folds separately, which takes longer"
    )
    parser.add_argument("--wandb", metavar="PROJECT", help="log all folds to W&B as one group")
    parser.add_argument("--wandb-mode", choices=("offline", "online"), default="offline")
    add_features(parser)
    parser.add_argument("--seed", type=seed, default=0)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Cross-validate a recipe on the folds of the file, or on stratified folds if it has none."""
    from engine.config.recipe import Recipe
    from engine.cross_validation.run import BagInputs, cross_validate
    from evaluation.report.record import report

    policy = None if args.bad_data == "error" else args.bad_data
    data = BagInputs(args.data, args.features, policy)
    recipe = Recipe(tuple(args.config), tuple(args.overrides))
    counts = (args.folds, args.repeats, args.seed)
    result = cross_validate(
        recipe, data, *counts, progress("folds", 10), together=not args.one_by_one
    )
    for note in (result.training, *result.notes):
        print(f"note: {note}")
    rows = [(k, v["mean"], v["std"], len(v["folds"])) for k, v in result.metrics.items()]
    title = f"{recipe} on {args.data}: {result.protocol}"
    show(title, ["metric", "mean", "std over folds", "values"], rows)
    if args.wandb is not None:
        from loggers.wandb_folds import WandbOptions, log_cross_validation

        facts = {"recipe": recipe.words, "seed": args.seed, "protocol": result.protocol}
        options = WandbOptions(project=args.wandb, mode=args.wandb_mode)
        values = {name: summary["folds"] for name, summary in result.metrics.items()}
        name = args.config[0].stem
        print(log_cross_validation(options, name, result.fold_numbers, values, args.data, facts))
    return report(
        sys.argv,
        result.metrics,
        files=[*args.config, args.data],
        seed=args.seed,
        protocol=result.protocol,
        training=result.training,
        seconds=result.seconds,
        notes=result.notes,
        **report_bad_data(result.problems),
    )
