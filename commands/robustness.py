"""`evaluate.py robustness`: how far scores fall when images or features get worse."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from commands._arguments import add_input, add_out, add_output, figure
from commands._cells import add_checkpoint_arguments, check_without_checkpoint, evaluate_cells
from commands._tables import report_bad_data, show
from commands._wandb import add_wandb
from commands._wandb_logs import log_robustness
from commands.cells._intervals import add_interval_arguments, interval_record, intervals_of
from commands.shifts._bags import (
    add_bag_arguments,
    bag_benchmark,
    evaluate_bag_cells,
    takes_bags,
)

SUMMARY = "how far scores fall under corruptions: mPC, rPC, CD of checkpoints or of tables of cells"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_input(
        parser,
        "--cells",
        nargs="+",
        help="CSV with model,corruption,severity,task,metric,value; without the column model, the "
        "file's name is that of the model. With --ckpt the table that is written or continued; "
        "default: robustness.csv in the run folder of the first checkpoint",
    )
    parser.add_argument("--reference", metavar="MODEL", help="model of which CD and rCD are ratios")
    add_output(
        parser, "--figure", type=figure, help="heat maps and curves over severity: .png, .pdf, .svg"
    )
    add_interval_arguments(parser)
    add_checkpoint_arguments(parser)
    add_bag_arguments(parser)
    add_wandb(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate checkpoints or read tables of cells, and summarise them."""
    from evaluation.report.record import report
    from evaluation.robustness.domains import domain_scores, domain_tables
    from evaluation.robustness.figures import plot_robustness
    from evaluation.robustness.grid import read_grids
    from evaluation.robustness.interval_tables import interval_tables
    from evaluation.robustness.scores import summarise
    from evaluation.robustness.tables import tables
    from evaluation.robustness.writer import path_of, read_origin

    extra: dict[str, Any] = {}
    if args.ckpt:
        found = evaluate_bag_cells(args) if takes_bags(args) else evaluate_cells(args)
        grids, sources = found.grids, [found.table]
        data = args.annotations or args.data
        files = [data, *args.ckpt, *map(Path, args.domain or ())]
        extra = {"table": str(found.table), **report_bad_data(found.problems)}
    else:
        check_without_checkpoint(args)
        grids, sources, files = read_grids(args.cells), args.cells, args.cells
    origins = {path: read_origin(path) for path in sources}
    benchmark = bag_benchmark(origins)
    summary = summarise(grids, args.reference, benchmark)
    domains = domain_scores(grids)
    for part in (*tables(summary, grids, args.reference), *domain_tables(domains)):
        show(*part, width=100)
    intervals = intervals_of(args, grids, origins, benchmark)
    for part in interval_tables(intervals, summary.metrics, domains):
        show(*part, width=100)
    path, notes = path_of(origins)
    notes = [*summary.notes, *notes, *intervals.notes, *(found.notes if args.ckpt else ())]
    for note in notes:
        print(f"note: {note}")
    if args.ckpt:
        print(f"written: {found.table}")
    if args.figure:
        from evaluation.report.plots import save_figure

        save_figure(plot_robustness(grids, summary), args.figure)
        print(f"written: {args.figure}")
    extra |= {
        "corruptions": summary.corruptions,
        "cells": summary.cells,
        "domains": domains,
        **interval_record(args, intervals),
        "path": path,
        "reference": args.reference,
        "notes": notes,
    }
    seed = (args.seed or 0) if args.ckpt else None
    record = report(sys.argv, summary.metrics, files=files, seed=seed, **extra)
    log_robustness(args, record, lambda: plot_robustness(grids, summary))
    return record
