"""The evaluation scripts: score checkpoints and prediction files. Thin: the work is elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

COMMANDS = {
    "coco": "COCO AP and AR of boxes and masks",
    "operating-point": "precision, recall and F1 at a confidence, one or two models",
    "mil": "bag metrics with bootstrap intervals",
    "mil-cv": "cross-validation of a MIL recipe on one file of bags",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands; imports nothing heavy."""
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subs = {name: commands.add_parser(name, help=text) for name, text in COMMANDS.items()}
    for sub in subs.values():
        sub.add_argument("--out", type=Path, help="write the numbers as JSON")
        sub.add_argument("--debug", action="store_true", help="show a traceback on wrong input")
    for name in ("coco", "operating-point"):
        source = subs[name].add_mutually_exclusive_group(required=True)
        many: dict[str, Any] = {"nargs": "+"} if name == "operating-point" else {}
        source.add_argument("--ckpt", type=Path, help="checkpoint(s)", **many)
        source.add_argument("--predictions", type=Path, help="COCO results file(s)", **many)
        subs[name].add_argument("--annotations", type=Path, required=True, help="COCO ground truth")
        subs[name].add_argument("--images", type=Path, help="picture folder (with --ckpt)")
        subs[name].add_argument("--batch-size", type=int, help="default: the checkpoint's")
    coco = subs["coco"]
    coco.add_argument(
        "--max-dets", type=int, nargs="+", help="default: the checkpoint's, or 1 10 100"
    )
    coco.add_argument("--backend", choices=("fast", "pycocotools"), default="fast")
    coco.add_argument(
        "--class-agnostic", action="store_true", help="score all categories as one class"
    )
    coco.add_argument("--per-class", action="store_true", help="also print AP by class")
    coco.add_argument("--save-predictions", type=Path, help="write the results file (with --ckpt)")
    point = subs["operating-point"]
    point.add_argument("--score", type=float, default=0.5, help="confidence from which to count")
    point.add_argument("--iou", type=float, default=0.5, help="overlap that makes a match")
    point.add_argument("--iou-type", choices=("segm", "bbox"), help="default: segm where masks are")
    point.add_argument("--latency", action="store_true", help="also time each checkpoint")
    point.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    mil = subs["mil"]
    source = mil.add_mutually_exclusive_group(required=True)
    source.add_argument("--ckpt", type=Path, help="checkpoint (with --data)")
    source.add_argument("--predictions", type=Path, help="CSV bag_id,label,score")
    mil.add_argument(
        "--data", type=Path, help="npz of bags, or a recipe whose test split is scored"
    )
    mil.add_argument("--threshold", type=float, help="default: the checkpoint's, or 0.5")
    mil.add_argument("--draws", type=int, default=1000, help="bootstrap draws")
    mil.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    cv = subs["mil-cv"]
    cv.add_argument(
        "--config", type=Path, required=True, help="recipe, e.g. configs/mil/abmil.yaml"
    )
    cv.add_argument("--data", type=Path, required=True, help="npz of bags")
    cv.add_argument("--folds", type=int, default=10)
    cv.add_argument("--repeats", type=int, default=5)
    cv.add_argument("--seed", type=int, default=0)
    return parser


def _show(title: str, columns: list[str], rows: Any) -> None:
    from rich.console import Console

    from evaluation.report import table

    console = Console(width=max(80, Console().width))
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table(columns, rows))


def _write(path: Path | None, record: dict[str, Any]) -> None:
    if path is not None:
        from evaluation.results import write_json

        write_json(path, record)
        print(f"written: {path}")


def run_coco(args: argparse.Namespace) -> dict[str, Any]:
    """Score a checkpoint or a results file against COCO ground truth."""
    from evaluation.coco import evaluate_results
    from evaluation.report import report
    from evaluation.results import (
        load_ground_truth,
        load_results,
        merge_categories,
        write_json,
    )

    files = [args.annotations, args.predictions or args.ckpt]
    if args.ckpt:
        from lightning_modules.inference import predict_coco

        predicted = predict_coco(args.ckpt, args.annotations, args.images, args.batch_size)
        truth, rows = predicted.ground_truth, predicted.rows
        max_dets = args.max_dets or predicted.max_dets
        if args.save_predictions:
            write_json(args.save_predictions, rows)
    else:
        truth = load_ground_truth(args.annotations)
        rows = load_results(args.predictions, None if args.class_agnostic else truth)
        max_dets = args.max_dets or [1, 10, 100]
    if args.class_agnostic:
        truth, rows = merge_categories(truth, rows)
    scores = evaluate_results(truth, rows, max_dets=max_dets, backend=args.backend)
    title = f"{files[1]} on {args.annotations} ({len(truth['images'])} pictures)"
    _show(title, ["metric", "value"], scores.metrics.items())
    if args.per_class:
        per_class = scores.per_class()
        if per_class:
            _show("by class", list(per_class[0]), [list(row.values()) for row in per_class])
    return report(sys.argv, scores.metrics, files=files, per_class=scores.per_class())


def run_mil(args: argparse.Namespace) -> dict[str, Any]:
    """Score bags with bootstrap intervals."""
    from evaluation.bag_scores import read_bag_csv
    from evaluation.bootstrap import bootstrap_intervals
    from evaluation.mil import confusion_matrix, evaluate_bags
    from evaluation.report import report

    if args.ckpt:
        if args.data is None:
            raise ValueError("mil --ckpt needs --data FILE.npz or --data RECIPE.yaml")
        from lightning_modules.inference import predict_bags

        scores, task, threshold = predict_bags(args.ckpt, args.data)
        files = [args.ckpt, args.data]
    else:
        scores, task = read_bag_csv(args.predictions)
        threshold, files = 0.5, [args.predictions]
    threshold = threshold if args.threshold is None else args.threshold
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold is a probability in [0, 1], got {threshold:g}")
    metrics = evaluate_bags(scores.labels, scores.probabilities, task, threshold)
    intervals = bootstrap_intervals(
        scores.labels,
        scores.probabilities,
        task,
        threshold=threshold,
        groups=scores.groups or None,
        draws=args.draws,
        seed=args.seed,
    )
    rows = [(k, v, *intervals.get(k, (None, None))) for k, v in metrics.items()]
    title = f"{files[0]}: {len(scores.bag_ids)} bags, threshold {threshold:g}"
    _show(title, ["metric", "value", "2.5 %", "97.5 %"], rows)
    matrix = confusion_matrix(scores.labels, scores.probabilities, task, threshold)
    extra = {
        "intervals": intervals,
        "threshold": threshold,
        "confusion_matrix": matrix,
        "bags": [
            {"bag_id": b, "label": y, "score": p}
            for b, y, p in zip(scores.bag_ids, scores.labels, scores.probabilities, strict=True)
        ],
    }
    return report(sys.argv, metrics, files=files, seed=args.seed, **extra)


def run_mil_cv(args: argparse.Namespace) -> dict[str, Any]:
    """Cross-validate a recipe; folds of the file when it has them, else stratified ones."""
    from evaluation.report import report
    from lightning_modules.mil_cv import cross_validate

    def tell(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            print(f"{done} of {total} folds", file=sys.stderr, flush=True)

    result = cross_validate(args.config, args.data, args.folds, args.repeats, args.seed, tell)
    rows = [(k, v["mean"], v["std"], len(v["folds"])) for k, v in result.metrics.items()]
    title = f"{args.config} on {args.data}: {result.protocol}"
    _show(title, ["metric", "mean", "std over folds", "values"], rows)
    return report(
        sys.argv,
        result.metrics,
        files=[args.config, args.data],
        seed=args.seed,
        protocol=result.protocol,
        seconds=result.seconds,
    )


def run_operating_point(args: argparse.Namespace) -> dict[str, Any]:
    """Compare models at one confidence; two models get a paired bootstrap of the difference."""
    from evaluation.operating_point import operating_point, paired_bootstrap
    from evaluation.report import report
    from evaluation.results import load_ground_truth

    if args.latency and not args.ckpt:
        raise ValueError("--latency times checkpoints; give --ckpt instead of --predictions")
    truth, sources = load_ground_truth(args.annotations), args.ckpt or args.predictions
    points, entries, times = [], {}, {}
    for source in sources:
        rows, cap = _result_rows(args, source, truth)
        kind = args.iou_type or ("bbox" if rows and "segmentation" not in rows[0] else "segm")
        point = operating_point(truth, rows, args.score, args.iou, kind, max(cap, 300))
        entries[str(source)] = summary = point.summary(seed=args.seed)
        low_high = summary["intervals_95"]
        title = f"{source}: score >= {args.score:g}, {kind} IoU >= {args.iou:g}"
        lines = [(name, value, *low_high[name]) for name, value in summary["metrics"].items()]
        _show(title, ["metric", "value", "2.5 %", "97.5 %"], lines)
        classes = summary["per_class"]
        _show("by class", list(classes[0]), [list(row.values()) for row in classes])
        points.append(point)
        if args.latency:
            from lightning_modules.inference import time_checkpoint

            times[str(source)] = time_checkpoint(source, args.annotations, args.images)
            _show(
                f"{source}: milliseconds a picture", ["what", "value"], times[str(source)].items()
            )
    difference = {}
    if len(points) == 2:
        difference = {k: v._asdict() for k, v in paired_bootstrap(*points, seed=args.seed).items()}
        lines = [(k, *v.values()) for k, v in difference.items()]
        _show("first minus second, paired", ["metric", "value", "2.5 %", "97.5 %"], lines)
    metrics = {str(s): e["metrics"] for s, e in entries.items()}
    extra = {"models": entries, "difference": difference, "latency": times}
    return report(sys.argv, metrics, files=[args.annotations, *sources], seed=args.seed, **extra)


def _result_rows(
    args: argparse.Namespace, source: Path, truth: dict[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """Return the COCO results rows of a checkpoint or a file, and the cap on detections."""
    if args.ckpt:
        from lightning_modules.inference import predict_coco

        predicted = predict_coco(source, args.annotations, args.images, args.batch_size)
        return predicted.rows, predicted.max_dets
    from evaluation.results import load_results

    return load_results(source, truth), 0


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 wrong input."""
    args = build_parser().parse_args(argv)
    run = {
        "coco": run_coco,
        "operating-point": run_operating_point,
        "mil": run_mil,
        "mil-cv": run_mil_cv,
    }[args.command]
    from jsonargparse import ArgumentError

    try:
        _write(args.out, run(args))
    except (ValueError, OSError, ArgumentError) as error:
        if args.debug:
            raise
        from lightning_modules.errors import user_message

        print(f"error: {user_message(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
