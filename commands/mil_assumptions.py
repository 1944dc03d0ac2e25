"""`evaluate.py mil-assumptions`: the algorithmic unit tests of an aggregator."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from commands._arguments import add_input, add_out, positive
from commands._tables import progress, show

SUMMARY = "algorithmic unit tests: whether an aggregator respects its MIL assumption"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_input(
        parser,
        "--model",
        type=str,
        required=True,
        help="dotted name of any torch module class, or a recipe of configs/mil",
    )
    parser.add_argument(
        "--init-args",
        type=_json_object,
        default={},
        metavar="JSON",
        help="arguments of its constructor; for a recipe, changes of its model's arguments",
    )
    parser.add_argument(
        "--adapter",
        choices=("batch", "bag", "packed"),
        help="batch: module(X (B,N,D), mask (B,N)); bag: module(X (N,D)); packed: "
        "module(BagBatch); default: packed for names under models., else inferred from forward",
    )
    parser.add_argument("--tests", type=int, nargs="+", choices=(1, 2, 3), default=(1, 2, 3))
    parser.add_argument("--seeds", type=positive, default=3, help="number of seeds")
    parser.add_argument(
        "--bags",
        type=positive,
        default=2000,
        help="training bags; test bags are half as many",
    )
    parser.add_argument("--epochs", type=positive, default=12)


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not JSON: {error}; write e.g. '{{\"width\": 64}}' in single quotes"
        ) from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object of arguments by name")
    return found


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the algorithmic unit tests on an aggregator of bags."""
    from evaluation.mil_assumptions.suite import check_assumptions
    from evaluation.mil_assumptions.text import record, sentences, settings_of, tables
    from evaluation.report.record import report

    model_of: Any
    if args.model.endswith((".yaml", ".yml")):
        from engine.assumptions import recipe_model as model_of
    else:
        from evaluation.mil_assumptions.adapters import import_model as model_of
    settings = settings_of(args.tests, args.seeds, args.bags, args.epochs)
    build = model_of(args.model, args.init_args, adapter=args.adapter)
    found = check_assumptions(build, settings, progress=progress("trainings"))
    for part in tables(found):
        show(*part)
    print("\n".join(sentences(found)))
    return report(sys.argv, {}, files=build.files, **record(found))
