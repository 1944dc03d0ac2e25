"""`evaluate.py mil-cv`: cross-validation of a recipe."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands._arguments import (
    add_bad_data,
    add_features,
    add_input,
    add_out,
    add_output,
    positive,
    seed,
    share,
)
from commands._tables import progress_with_time, report_bad_data, show
from commands.cross_validation._external import add_external, external_inputs, show_external
from commands.cross_validation._grid import add_grid, nested_of, show_nested
from commands.targets._mil_cv import (
    show_details,
    time_options,
    write_predictions,
)
from commands.targets._times import add_time_arguments

if TYPE_CHECKING:
    from engine.cross_validation.run import CrossValidation

SUMMARY = "cross-validation of a MIL recipe on one file of bags, or of the runs of its folds"
TAKES_OVERRIDES = True

# Arguments that have no effect on runs that are trained already, with their defaults.
_TRAINING = {
    "data": None,
    "features": None,
    "folds": None,
    "repeats": None,
    "seed": None,
    "val_fraction": None,
    "one_by_one": False,
    "save_checkpoints": None,
    "bad_data": "error",
    "wandb": None,
    "external": None,
    "save_external": None,
    "allow_overlap": False,
    "grid": None,
    "inner_folds": None,
    "grid_metric": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_bad_data(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    add_input(
        source,
        "--config",
        action="append",
        help="recipe, then overlays; values may follow, e.g. --trainer.max_epochs 50",
    )
    add_input(
        source,
        "--runs",
        nargs="+",
        metavar="RUN",
        help="folders of `python train.py fit --data.fold K`, one for each fold, to put together "
        "instead",
    )
    add_input(parser, "--data", help="npz of bags, or CSV of slides (with --config)")
    parser.add_argument("--folds", type=positive, help="default: 10, or the folds of the file")
    parser.add_argument(
        "--repeats", type=positive, help="default: 5, or fewer if the file has fewer"
    )
    parser.add_argument(
        "--select",
        choices=("last", "best"),
        default="last",
        help="weights that predict the test bags of a fold: the last ones, or the best ones by "
        "checkpoint.monitor on validation bags, with the recipe's early stopping",
    )
    parser.add_argument(
        "--val-fraction",
        type=share,
        metavar="X",
        help="with --select best: share of the training bags to validate on (default: .15)",
    )
    parser.add_argument(
        "--one-by-one", action="store_true", help="train folds separately, which takes longer"
    )
    add_output(
        parser,
        "--save-checkpoints",
        metavar="DIR",
        folder=lambda _: "a checkpoint of each fold",
        help="write a checkpoint of each fold",
    )
    add_output(
        parser,
        "--save-predictions",
        metavar="FILE.csv",
        help="write repeat, fold and bag_id of each test bag with its label and predictions",
    )
    parser.add_argument("--wandb", metavar="PROJECT", help="log all folds to W&B as one group")
    parser.add_argument("--wandb-mode", choices=("offline", "online"), default="offline")
    add_time_arguments(parser, folds=True)
    add_features(parser)
    add_external(parser)
    add_grid(parser)
    parser.add_argument("--seed", type=seed, help="seed of folds and trainings (default: 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Cross-validate a recipe on the folds of the file, or on stratified folds if it has none."""
    from evaluation.report.record import report

    if args.runs:
        (result, files), name = _of_runs(args), f"{len(args.runs)} runs"
    else:
        result, files = _trained(args), [*args.config, args.data]
        files += [one.data for one in args.external or ()]
        files += [] if args.grid is None else [args.grid]
        name = f"{' + '.join(map(str, args.config))} on {args.data}"
    for note in (result.training, *result.notes):
        print(f"note: {note}")
    rows = [(k, v["mean"], v["std"], _defined(v["folds"])) for k, v in result.metrics.items()]
    title = f"{name}: {result.protocol}"
    show(title, ["metric", "mean", "std over folds", "values"], rows)
    show_details(result.details)
    show_nested(args, result.nested)
    external = show_external(args, result.external)
    if args.save_predictions is not None:
        write_predictions(args.save_predictions, result)
        print(f"written: {args.save_predictions}")
    if args.wandb is not None:
        print(_logged(args, result))
    record = report(
        sys.argv,
        result.metrics,
        files=files,
        seed=args.seed or 0,
        protocol=result.protocol,
        repeats=len(result.folds),
        training=result.training,
        seconds=result.seconds,
        notes=result.notes,
        device=result.device,
        select=args.select,
        **({"selected": result.selected} if result.selected else {}),
        **result.details,
        **({"external": external} if external else {}),
        **({"nested": result.nested} if result.nested else {}),
        **report_bad_data(result.problems),
    )
    _forget_finished(args, record)
    return record


def _defined(values: list[float]) -> int:
    """Return the number of folds whose value counts for the mean."""
    return sum(math.isfinite(value) for value in values)


def _trained(args: argparse.Namespace) -> CrossValidation:
    from engine.config.recipe import Recipe
    from engine.cross_validation.extras import Extras
    from engine.cross_validation.finished import FinishedFolds
    from engine.cross_validation.recipe import LAST, Choice
    from engine.cross_validation.run import BagInputs, FoldFiles, cross_validate

    if args.data is None:
        raise ValueError("mil-cv --config needs --data FILE.npz or SLIDES.csv")
    if args.features is not None and args.data.suffix.lower() != ".csv":
        raise ValueError(
            f"--features {args.features} has no effect on {args.data}: it is for a CSV of slides"
        )
    if args.val_fraction is not None and args.select == "last":
        raise ValueError(
            "--val-fraction has no effect with --select last, which validates nothing; give "
            "--select best (data.val_fraction is the share for threshold: youden)"
        )
    policy = None if args.bad_data == "error" else args.bad_data
    finished = _finished_folder(args)
    recipe = Recipe(tuple(args.config), tuple(args.overrides))
    extras = Extras(external_inputs(args), nested_of(args, recipe), args.allow_overlap)
    try:
        return cross_validate(
            recipe,
            BagInputs(args.data, args.features, policy),
            args.folds,
            args.repeats,
            args.seed or 0,
            progress_with_time("folds" if args.grid is None else "trainings"),
            together=not args.one_by_one,
            choice=Choice(args.select, args.val_fraction or LAST.val_fraction),
            keep=FoldFiles(finished, args.save_checkpoints),
            options=time_options(args),
            extras=extras,
        )
    except (ValueError, OSError):
        if finished is not None:
            FinishedFolds(finished).remove_without_folds()
        raise


def _of_runs(args: argparse.Namespace) -> tuple[CrossValidation, list[Path]]:
    from engine.cross_validation.fit_runs import cross_validation_of_runs

    given = [n for n, default in _TRAINING.items() if getattr(args, n) != default]
    flags = [f"--{name.replace('_', '-')}" for name in given] + args.overrides[:1]
    if flags:
        raise ValueError(f"{flags[0]} has no effect on --runs, which are trained already")
    progress = progress_with_time("folds")
    return cross_validation_of_runs(args.runs, args.select, progress, time_options(args))


def _finished_folder(args: argparse.Namespace) -> Path | None:
    """Return the folder of finished folds, next to --out, with which a killed run goes on."""
    return None if args.out is None else args.out.with_name(f"{args.out.name}.folds")


def _forget_finished(args: argparse.Namespace, record: dict[str, Any]) -> None:
    """Remove the finished folds, after the record is written, so that a kill loses nothing."""
    folder = _finished_folder(args)
    if folder is None or args.runs:
        return
    from engine.cross_validation.finished import FinishedFolds
    from formats.files import write_json

    write_json(args.out, record)
    FinishedFolds(folder).remove()


def _logged(args: argparse.Namespace, result: CrossValidation) -> str:
    from engine.config.recipe import Recipe
    from loggers.wandb_folds import WandbOptions, log_cross_validation

    words = Recipe(tuple(args.config), tuple(args.overrides)).words
    facts = {"recipe": words, "seed": args.seed or 0, "protocol": result.protocol}
    options = WandbOptions(project=args.wandb, mode=args.wandb_mode)
    values = {name: summary["folds"] for name, summary in result.metrics.items()}
    name = args.config[0].stem
    return log_cross_validation(options, name, result.fold_numbers, values, args.data, facts)
