"""`evaluate.py robustness`: how far scores fall when images or features get worse."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import add_input, add_out, add_output, figure
from commands._tables import show

SUMMARY = "how far scores fall under corruptions: mPC, rPC, CD of tables of cells"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_input(
        parser,
        "--cells",
        nargs="+",
        required=True,
        help="CSV with model,corruption,severity,task,metric,value; without the column model, the "
        "file's name is that of the model",
    )
    parser.add_argument("--reference", metavar="MODEL", help="model of which CD and rCD are ratios")
    add_output(
        parser, "--figure", type=figure, help="heat maps and curves over severity: .png, .pdf, .svg"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Summarise tables of cells."""
    from evaluation.report.record import report
    from evaluation.robustness.grid import read_grids
    from evaluation.robustness.scores import summarise
    from evaluation.robustness.tables import tables
    from evaluation.robustness.writer import path_of, read_origin

    grids = read_grids(args.cells)
    origins = {path: read_origin(path) for path in args.cells}
    summary = summarise(grids, args.reference)
    for part in tables(summary, grids, args.reference):
        show(*part, width=100)
    path, notes = path_of(origins)
    notes = [*summary.notes, *notes]
    for note in notes:
        print(f"note: {note}")
    if args.figure:
        from evaluation.report.plots import save_figure
        from evaluation.robustness.figures import plot_robustness

        save_figure(plot_robustness(grids, summary), args.figure)
        print(f"written: {args.figure}")
    extra: dict[str, Any] = {
        "corruptions": summary.corruptions,
        "cells": summary.cells,
        "path": path,
        "reference": args.reference,
        "notes": notes,
    }
    return report(sys.argv, summary.metrics, files=args.cells, **extra)
