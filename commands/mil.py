"""`evaluate.py mil`: metrics of bags with bootstrap intervals."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from commands._arguments import (
    add_allow_overlap,
    add_bad_data,
    add_features,
    add_input,
    add_out,
    add_output,
    decision_threshold,
    positive,
    seed,
)
from commands._sources import bag_predictions
from commands._tables import report_bad_data, show
from commands._wandb import add_wandb
from commands._wandb_logs import log_bags
from commands.targets._further import (
    Scored,
    add_further_arguments,
    look_further,
    read_further,
    score_further,
)
from commands.targets._mil import add_target_arguments, refuse_target_options, score_targets

if TYPE_CHECKING:
    from evaluation.mil.patients import Pool
    from evaluation.mil.predictions_csv import BagPredictions

SUMMARY = "bag metrics with bootstrap intervals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_bad_data(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    add_input(source, "--ckpt", help="checkpoint (with --data)")
    add_input(source, "--predictions", help="CSV bag_id,label,score, or of times or values")
    add_input(parser, "--data", help="npz of bags, CSV of slides, or a recipe (its test split)")
    parser.add_argument(
        "--threshold",
        type=decision_threshold,
        help="default: that of the checkpoint or table, or 0.5",
    )
    parser.add_argument("--draws", type=positive, default=1000, help="bootstrap draws")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap")
    parser.add_argument(
        "--unit",
        choices=("bag", "patient"),
        default="bag",
        help="score bags, or patients by the pooled predictions of their bags",
    )
    parser.add_argument(
        "--pool",
        choices=("mean", "max"),
        help="with --unit patient: mean of the bags' probabilities (default), or the largest",
    )
    add_output(
        parser,
        "--save-predictions",
        metavar="F.csv",
        help="write the scored bags or patients as a table of predictions",
    )
    add_features(parser)
    add_allow_overlap(parser)
    add_target_arguments(parser)
    add_further_arguments(parser)
    add_wandb(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Score bags with bootstrap intervals."""
    import numpy as np

    from evaluation.mil.class_scorer import ClassScorer
    from evaluation.mil.scored_files import write_scored
    from evaluation.mil.scores import confusion_matrix, evaluate_bags
    from evaluation.report.record import report

    tables = look_further(args)
    bags = _read(args)
    refuse_target_options(args, bags.task)
    further = read_further(args, tables, bags)
    if bags.target is not None:
        return score_targets(args, bags, further)
    found, notes = _in_units(args, bags)
    scores, task, files = found.scores, found.task, found.files
    known = 0.5 if found.threshold is None else found.threshold
    threshold = known if args.threshold is None else args.threshold
    if task == "multiclass" and args.threshold is not None:
        raise ValueError(
            "--threshold has no effect on predictions of several classes, of which the most "
            "probable one counts; leave it out"
        )
    metrics = evaluate_bags(scores.labels, scores.probabilities, task, threshold)
    witness = scores.witness[np.isfinite(scores.witness)]
    if witness.size:
        metrics["witness_auroc"] = float(witness.mean())
    intervals, few = _intervals(args, found, threshold)
    rows = [(k, v, *intervals.get(k, (None, None))) for k, v in metrics.items()]
    decided = "" if task == "multiclass" else f", threshold {threshold:g}"
    title = f"{files[0]}: {len(scores.bag_ids)} {args.unit}s{decided}"
    show(title, ["metric", "value", "2.5 %", "97.5 %"], rows)
    notes += [few] if few else []
    for note in notes:
        print(f"note: {note}")
    _write(args, found, threshold)
    matrix = confusion_matrix(scores.labels, scores.probabilities, task, threshold)
    scorer = ClassScorer(scores.labels, scores.probabilities, task, threshold, found.classes)
    more = score_further(args, further, Scored(scorer, scores.bag_ids, scores.groups))
    extra: dict[str, Any] = {
        **report_bad_data(found.problems),
        "intervals": intervals,
        "threshold": threshold if decided else None,
        "unit": args.unit,
        "pool": (args.pool or "mean") if args.unit == "patient" else None,
        "notes": notes,
        "confusion_matrix": matrix,
        **more,
        "bags": [
            {"bag_id": b, "label": y, "score": p}
            for b, y, p in zip(scores.bag_ids, scores.labels, scores.probabilities, strict=True)
        ],
    }
    record = report(sys.argv, metrics, files=(*files, *further.files), seed=args.seed, **extra)
    log_bags(args, record, bags, lambda path: write_scored(path, found, threshold))
    return record


def _write(args: argparse.Namespace, found: BagPredictions, threshold: float) -> None:
    if args.save_predictions is not None:
        from evaluation.mil.scored_files import write_scored

        write_scored(args.save_predictions, found, threshold)
        print(f"written: {args.save_predictions}")


def _intervals(
    args: argparse.Namespace, found: BagPredictions, threshold: float
) -> tuple[dict[str, tuple[float, float]], str]:
    """Return the interval of each metric, and why they are withheld, or an empty text."""
    from evaluation.statistics.bootstrap import bootstrap_intervals
    from evaluation.statistics.sample_size import too_few_bags, withheld

    scores = found.scores
    intervals = bootstrap_intervals(
        scores.labels,
        scores.probabilities,
        found.task,
        threshold=threshold,
        groups=scores.groups,
        draws=args.draws,
        seed=args.seed,
    )
    few = too_few_bags(scores, found.task, found.classes, scores.groups)
    return (withheld(intervals) if few else intervals), few


def _read(args: argparse.Namespace) -> BagPredictions:
    """Return the predictions of bags."""
    if args.unit == "bag" and args.pool is not None:
        raise ValueError("--pool has an effect with --unit patient alone; add it")
    return bag_predictions(args, patients=args.unit == "patient")


def _in_units(args: argparse.Namespace, bags: BagPredictions) -> tuple[BagPredictions, list[str]]:
    """Return the predictions of bags or patients, and notes on them."""
    if args.unit == "bag":
        return bags, []
    from evaluation.mil.patients import pool_patients

    pool: Pool = args.pool or "mean"
    found = pool_patients(bags, pool, args.bad_data)
    count, patients = len(bags.scores.bag_ids), len(found.scores.bag_ids)
    notes = [f"{count} bags were pooled by {pool} to {patients} patients"]
    if found.task == "multiclass":
        if pool == "max":  # A676
            notes.append("classes count in their order, the largest number highest")
    elif args.threshold is None and found.threshold is not None and count > patients:  # A677
        notes.append(
            f"the threshold {found.threshold:g} was chosen for bags, not for patients; "
            "--threshold sets another"
        )
    return found, notes
