"""`evaluate.py camelyon-splits`: the tables of slides of CAMELYON16 and CAMELYON17."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import add_bad_data, add_input, add_output
from commands._tables import report_bad_data, show

SUMMARY = "table of CAMELYON's slides with the official split or the centres as folds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--challenge", choices=("16", "17"), required=True)
    add_input(parser, "--labels", required=True, help="CSV slide_id,label (17: and center)")
    add_output(parser, "--out", dest="table", required=True, help="CSV of slides to train with")
    add_output(parser, "--report", dest="out", help="write the counts as JSON")
    add_bad_data(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the table and print how many slides of each class each part has."""
    from evaluation.report.record import report
    from formats.camelyon import camelyon16, camelyon17
    from formats.files import write_csv

    read = camelyon16 if args.challenge == "16" else camelyon17
    found = read(args.labels, args.bad_data)
    if not found.rows:
        raise ValueError(f"{args.labels}: no slide is left; correct the lines that were skipped")
    write_csv(args.table, found.columns, ([row[c] for c in found.columns] for row in found.rows))
    part = found.columns[-1]
    parts = sorted({row[part] for row in found.rows})
    labels = sorted({row["label"] for row in found.rows})
    pairs = [(row[part], row["label"]) for row in found.rows]
    counts = {p: {label: pairs.count((p, label)) for label in labels} for p in parts}
    title = f"CAMELYON{args.challenge}: {len(pairs)} slides, by label"
    rows = [(p, *counts[p].values(), sum(counts[p].values())) for p in parts]
    show(title, [part, *labels, "slides"], rows)
    print(f"written: {args.table}")
    extra: dict[str, Any] = report_bad_data(found.problems)
    return report(sys.argv, {"slides": len(pairs)}, files=[args.labels], counts=counts, **extra)
