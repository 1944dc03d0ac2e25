"""`evaluate.py mil-cv`: cross-validation of a recipe."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._tables import progress, show, tell_skipped


def run_mil_cv(args: argparse.Namespace) -> dict[str, Any]:
    """Cross-validate a recipe; folds of the file when it has them, else stratified ones."""
    from engine.cross_validation.recipe import RecipeFiles
    from engine.cross_validation.run import BagFiles, cross_validate
    from evaluation.report.record import report

    policy = None if args.bad_data == "error" else args.bad_data
    data = BagFiles(args.data, args.features, policy)
    recipe = RecipeFiles(tuple(args.config), tuple(args.overrides))
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
        skipped=tell_skipped(result.problems),
    )
