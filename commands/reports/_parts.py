"""What the reports of images and bags share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from engine.reports.facts import Predicted
    from engine.reports.folder import RunFolder
    from evaluation.report.page.content import Page
    from evaluation.report.page.seg_page import Shared
    from structures import Problem


class Report(NamedTuple):
    """A page and the entries of its JSON record.

    Attributes:
        page: contents of the page.
        metrics: of the run, or by run.
        files: files that were read.
        predictions: file of the predictions of each run.
        problems: problems of records that were left out or repaired.
        extra: further entries of the record.
    """

    page: Page
    metrics: dict[str, Any]
    files: list[Path]
    predictions: list[Path]
    problems: tuple[Problem, ...]
    extra: dict[str, Any]


def by_run(names: Sequence[str], values: Sequence[Any]) -> Any:
    """Return the entry of a single run, or of several by name."""
    return values[0] if len(names) == 1 else dict(zip(names, values, strict=True))


def shared_parts(
    args: argparse.Namespace,
    runs: Sequence[RunFolder],
    found: Sequence[Predicted],
    commands: Sequence[dict[str, list[object]]],
    problems: Iterable[Problem],
) -> Shared:
    """Return the parts of a page that do not depend on what is predicted."""
    from engine.reports.facts import run_facts, run_recipe, training_log
    from evaluation.report.page.seg_page import Shared
    from evaluation.robustness.grid import read_grids

    logs = [training_log(run) for run in runs]
    page = {"this page, with its intervals, lists and images": page_words(args, runs)}
    words = [{**one, **page} if n == 0 else one for n, one in enumerate(commands)]
    return Shared(
        title=" and ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs",
        facts=tuple(map(run_facts, runs, found, logs)),
        logs=tuple(logs),
        recipes=tuple(map(run_recipe, runs, found, words)),
        notes=tuple(problem_notes(problems)),
        grids=read_grids(args.cells) if args.cells else {},
        gallery=args.gallery,
        seed=args.seed,
    )


def page_words(args: argparse.Namespace, runs: Sequence[RunFolder]) -> list[object]:
    """Return the words after ``python evaluate.py`` that make the page again."""
    words: list[object] = [args.command, "--run", *(run.folder for run in runs)]
    for name in ("annotations", "images", "data", "features"):
        if getattr(args, name) is not None:
            words += [f"--{name}", getattr(args, name)]
    if args.cells:
        words += ["--cells", *args.cells]
    if args.bad_data != "error":
        words += ["--bad-data", args.bad_data]
    if args.allow_overlap:
        words.append("--allow-overlap")
    return [*words, "--gallery", args.gallery, "--draws", args.draws, "--seed", args.seed]


def problem_notes(problems: Iterable[Problem]) -> list[str]:
    """Return one note for each file with records that were left out or repaired."""
    counts: dict[tuple[str, bool], list[Problem]] = {}
    for problem in problems:
        counts.setdefault((str(problem.file), problem.repaired), []).append(problem)
    notes = []
    for (file, repaired), found in counts.items():
        done = "repaired" if repaired else "left out"
        first = found[0]
        item = f"{first.kind} {first.item}: " if first.item is not None else ""
        reason = f"{item}{first.reason}"
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        notes.append(f"{len(found)} problem(s) of {file} were {done}: {reason}{more}")
    return notes
