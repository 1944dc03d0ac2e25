"""Reports of runs on bags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from commands.reports._parts import Report, by_run, shared_parts

if TYPE_CHECKING:
    from engine.reports.bags import BagRun
    from engine.reports.folder import RunFolder
    from evaluation.comparison.results import Comparison
    from evaluation.report.page.content import Table
    from evaluation.report.page.mil_scores import MilScores
    from structures import BadDataPolicy, MILTask


def bag_report(args: argparse.Namespace, runs: Sequence[RunFolder]) -> Report:
    """Return the report of runs on the same bags.

    Raises:
        ValueError: the data of the runs differ, or are missing or faulty.
    """
    from engine.reports.bags import BagSource, read_bag_run
    from engine.reports.commands import bag_commands
    from evaluation.report.page.attention import witness_auroc
    from evaluation.report.page.mil_page import mil_page
    from evaluation.report.page.mil_scores import score_bags
    from evaluation.report.page.reliability import bag_calibration, reliability_of

    _check_flags(args, runs)
    policy: BadDataPolicy = "error" if args.bad_data == "error" else "skip"
    source = BagSource(args.data, args.features, policy, args.allow_overlap)
    found = [read_bag_run(run, source) for run in runs]
    names = [run.name for run in runs]
    compared = [_compared(args, found[0], one) for one in found[1:]]
    scored = [
        score_bags(
            name,
            one.found,
            _class_names(found, one),
            witness_auroc(one.attention),
            draws=args.draws,
            seed=args.seed,
        )
        for name, one in zip(names, found, strict=True)
    ]
    calibrations = [bag_calibration(one) for one in scored]
    diagrams = [
        reliability_of(name, "bags", record)
        for name, record in zip(names, calibrations, strict=True)
        if record is not None
    ]
    problems = tuple(problem for one in found for problem in one.found.problems)
    commands = bag_commands(found, draws=args.draws, seed=args.seed, bad_data=args.bad_data)
    shared = shared_parts(args, runs, [_predicted(one) for one in found], commands, problems)
    tables = [_table(names[0], name, one) for name, one in zip(names[1:], compared, strict=True)]
    attention = [one.attention for one in found]
    page = mil_page(shared, scored, attention, found[0].images, diagrams, tables)
    extra: dict[str, Any] = {
        **_scored_entries(names, scored),
        "calibration": by_run(names, calibrations),
        "difference": {
            name: one.extra["difference"] for name, one in zip(names[1:], compared, strict=True)
        },
        "predicted": by_run(names, [one.predicted for one in found]),
        "predictions": by_run(names, [str(one.table) for one in found]),
    }
    metrics = by_run(names, [one.metrics for one in scored])
    tables_read = [one.table for one in found]
    return Report(page, metrics, tables_read, tables_read, problems, extra)


def _check_flags(args: argparse.Namespace, runs: Sequence[RunFolder]) -> None:
    if args.annotations is not None or args.images is not None:
        raise ValueError("--annotations and --images name images; name bags by --data")
    if args.features is not None and args.data is None:
        raise ValueError("--features are those of --data; add it")
    if args.data is not None and all(run.predictions is not None for run in runs):
        raise ValueError(
            "--data names bags for a checkpoint to predict, but all runs are tests with "
            "predictions of their own: leave --data out, or give the folders of the trainings"
        )


def _scored_entries(names: Sequence[str], scored: Sequence[MilScores]) -> dict[str, Any]:
    """Return the entries of the record that `evaluate.py mil` has, too."""
    from evaluation.mil.scores import confusion_matrix

    thresholds, matrices = [], []
    for one in scored:
        given = one.decisions
        matrices.append(None if given is None else confusion_matrix(*given, one.threshold))
        decided = given is not None and given[2] != "multiclass"
        thresholds.append(one.threshold if decided else None)
    return {
        "intervals": by_run(names, [one.intervals for one in scored]),
        "threshold": by_run(names, thresholds),
        "confusion_matrix": by_run(names, matrices),
    }


def _class_names(found: Sequence[BagRun], one: BagRun) -> tuple[str, ...]:
    """Return the names of the classes: those of a checkpoint, also of another run, or numbers."""
    count = len(one.found.classes) or 2
    known = (run.classes for run in (one, *found) if len(run.classes) == count)
    return next((names for names in known if not all(map(str.isdecimal, names))), one.classes)


def _compared(args: argparse.Namespace, first: BagRun, other: BagRun) -> Comparison:
    """Compare a run with the reference, which also refuses other bags, labels and classes."""
    from evaluation.comparison.compare import compare_files
    from evaluation.comparison.results import Settings

    task: MILTask | None = "ordinal" if first.found.task == other.found.task == "ordinal" else None
    settings = Settings(draws=args.draws, seed=args.seed, bad_data=args.bad_data, task=task)
    return compare_files([other.table, first.table], None, settings)


def _table(reference: str, name: str, found: Comparison) -> Table:
    """Return the differences, in the order of the comparison's own table."""
    from evaluation.report.page.mil_scores import compare_table

    rows = []
    values = [found.metrics[key] for key in (found.extra["first"], found.extra["second"])]
    for metric, difference in found.extra["difference"].items():
        pair = {"first": values[0][metric], "second": values[1][metric]}
        rows.append({"metric": metric, **pair, **difference})
    note = found.tables[0][0].splitlines()[-1]
    return compare_table(reference, name, f"Differences with intervals of 95 %: {note}.", rows)


def _predicted(one: BagRun) -> Any:
    from engine.reports.facts import Predicted

    target = one.found.target
    bags = one.found.scores.bag_ids if target is None else target.bag_ids
    return Predicted(
        data=one.data,
        split=one.split,
        count=len(bags),
        data_hash=one.data_hash,
        predictions=one.table,
        parameters=one.parameters,
    )
