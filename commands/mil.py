"""`evaluate.py mil`: metrics of bags with bootstrap intervals."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from commands._arguments import _positive, _seed, _threshold
from commands._tables import show, tell_skipped


def _add_mil(mil: argparse.ArgumentParser, cv: argparse.ArgumentParser) -> None:
    source = mil.add_mutually_exclusive_group(required=True)
    source.add_argument("--ckpt", type=Path, help="checkpoint (with --data)")
    source.add_argument("--predictions", type=Path, help="CSV bag_id,label,score")
    mil.add_argument(
        "--data", type=Path, help="npz of bags, CSV of slides, or a recipe (its test split)"
    )
    mil.add_argument("--threshold", type=_threshold, help="default: the checkpoint's, or 0.5")
    mil.add_argument("--draws", type=_positive, default=1000, help="bootstrap draws")
    mil.add_argument("--seed", type=_seed, default=0, help="seed of the bootstrap")
    cv.add_argument(
        "--config",
        type=Path,
        action="append",
        required=True,
        help="recipe, then overlays; values may follow, e.g. --trainer.max_epochs 50",
    )
    cv.add_argument("--data", type=Path, required=True, help="npz of bags, or CSV of slides")
    cv.add_argument("--folds", type=_positive, help="default: 10, or those of the file")
    cv.add_argument(
        "--repeats", type=_positive, help="default: 5, or fewer where the file has fewer"
    )
    cv.add_argument(
        "--one-by-one", action="store_true", help="train no folds together, which takes longer"
    )
    cv.add_argument("--wandb", metavar="PROJECT", help="log each fold to W&B, one group in all")
    cv.add_argument("--wandb-mode", choices=("offline", "online"), default="offline")
    for sub in (mil, cv):
        sub.add_argument(
            "--features", type=Path, help="folder of the slides' features (with a CSV)"
        )
    cv.add_argument("--seed", type=_seed, default=0)


def run_mil(args: argparse.Namespace) -> dict[str, Any]:
    """Score bags with bootstrap intervals."""
    from evaluation.mil.predictions_csv import read_bag_csv
    from evaluation.mil.scores import confusion_matrix, evaluate_bags
    from evaluation.report.record import report
    from evaluation.statistics.bootstrap import bootstrap_intervals

    if args.ckpt:
        if args.data is None:
            raise ValueError("mil --ckpt needs --data FILE.npz, SLIDES.csv or RECIPE.yaml")
        from engine.deploy.predict import predict_bags

        found = predict_bags(args.ckpt, args.data, args.features, args.bad_data)
        scores, task, threshold = found.scores, found.task, found.threshold
        skipped: Any = found.problems
        files = [args.ckpt, args.data]
    else:
        scores, task, skipped = read_bag_csv(args.predictions, args.bad_data)[:3]
        threshold, files = 0.5, [args.predictions]
    threshold = threshold if args.threshold is None else args.threshold
    metrics = evaluate_bags(scores.labels, scores.probabilities, task, threshold)
    intervals = bootstrap_intervals(
        scores.labels,
        scores.probabilities,
        task,
        threshold=threshold,
        groups=scores.groups,
        draws=args.draws,
        seed=args.seed,
    )
    rows = [(k, v, *intervals.get(k, (None, None))) for k, v in metrics.items()]
    title = f"{files[0]}: {len(scores.bag_ids)} bags, threshold {threshold:g}"
    show(title, ["metric", "value", "2.5 %", "97.5 %"], rows)
    matrix = confusion_matrix(scores.labels, scores.probabilities, task, threshold)
    extra: dict[str, Any] = {
        "skipped": tell_skipped(skipped),
        "intervals": intervals,
        "threshold": threshold,
        "confusion_matrix": matrix,
        "bags": [
            {"bag_id": b, "label": y, "score": p}
            for b, y, p in zip(scores.bag_ids, scores.labels, scores.probabilities, strict=True)
        ],
    }
    return report(sys.argv, metrics, files=files, seed=args.seed, **extra)
