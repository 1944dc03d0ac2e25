"""`evaluate.py check-data`: check a recipe and all of its data."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import add_bad_data, add_input, add_out
from commands._tables import show

SUMMARY = "list all problems of a recipe and its data, without training"
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser, json_inputs="annotations")
    add_bad_data(parser, annotations=True)
    add_input(
        parser,
        "--config",
        action="append",
        required=True,
        help="recipe, then overlays; flags of `python train.py fit` may follow, as --data.root DIR",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check a recipe and all of its data; the record's ``passed`` sets the exit code."""
    from engine.training.check_data import check_data
    from evaluation.report.record import report

    flags = [word for path in args.config for word in ("--config", str(path))]
    found = check_data([*flags, *args.overrides], args.bad_data)
    names = dict.fromkeys(name for counts in found.counts.values() for name in counts)
    rows = [(name, *(counts.get(name) for counts in found.counts.values())) for name in names]
    if rows:
        show("checked", ["what", *found.counts], rows)
    for note in found.notes:
        print(f"note: {note}")
    _show_problems(found.problems)
    passed = not found.problems or (found.policy != "error" and not found.fatal)
    if not passed:
        mend = ", or mend what can be mended by --data.bad_data repair" if found.mendable else ""
        ways = "" if found.fatal else f", or leave them out by --data.bad_data skip{mend}"
        count = f"{len(found.problems)} problem(s)"
        print(f"error: {count}, listed above; fix them{ways}", file=sys.stderr)
    extra: dict[str, Any] = {"passed": passed, "counts": found.counts, "notes": found.notes}
    extra["problems"] = [problem.to_dict() for problem in found.problems]
    return report(sys.argv, {}, files=args.config, **extra)


def _show_problems(problems: Any) -> None:
    from rich.console import Console

    from evaluation.report.record import problem_table
    from structures.problem import count_kinds

    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(markup=False, width=160)
    if not problems:
        console.print("no problem found")
        return
    title, table = problem_table(problems)
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table)
    repaired = [problem for problem in problems if problem.repaired]
    if repaired:
        left = [problem for problem in problems if not problem.repaired]
        for word, some in (("repaired", repaired), ("not repaired", left)):
            kinds = count_kinds(some) or "none"
            console.print(f"{word}: {kinds}", soft_wrap=True, highlight=False)
