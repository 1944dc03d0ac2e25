"""`evaluate.py pn-stage`: stages of patients from the predicted classes of their slides."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from commands._arguments import add_input, add_out
from commands._tables import show

SUMMARY = "CAMELYON17's stages of patients, and their kappa"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_input(parser, "--predictions", required=True, help="CSV of slides, as predict writes it")
    add_input(parser, "--truth", required=True, help="CSV slide_id,patient_id,label")
    add_out(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Stage the patients and compare the stages."""
    from evaluation.report.record import report
    from evaluation.wsi.pn_stage import STAGES, patient_stages, quadratic_kappa

    found = patient_stages(args.predictions, args.truth)
    table = found.confusion()
    kappa = quadratic_kappa(table)
    count = len(found.predicted)
    rows = [(stage, *row) for stage, row in zip(STAGES, table.tolist(), strict=True)]
    title = f"{args.predictions}: {count} patients, true stage by predicted stage"
    show(title, ["true", *STAGES], rows)
    print(f"stage_kappa {kappa:.4f}")
    notes = []
    if found.without:
        notes.append(f"{len(found.without)} patients of {args.truth} have no prediction")
    if math.isnan(kappa):
        notes.append("all patients have one stage, where kappa is not defined")
    for note in notes:
        print(f"note: {note}")
    stages = {
        "predicted": found.predicted,
        "true": found.true,
        "counts": dict(zip(STAGES, table.sum(axis=0).tolist(), strict=True)),
        "true_counts": dict(zip(STAGES, table.sum(axis=1).tolist(), strict=True)),
    }
    files = [args.predictions, args.truth]
    extra: dict[str, Any] = {"stages": stages, "confusion_matrix": table, "notes": notes}
    return report(sys.argv, {"stage_kappa": kappa}, files=files, **extra)
