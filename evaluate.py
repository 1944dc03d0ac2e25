"""The evaluation scripts: score checkpoints and prediction files. Thin: the work is elsewhere."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from evaluate_arguments import build_parser, inference_changes
from evaluate_models import run_export, run_latency
from evaluate_output import (
    check_outputs,
    ground_truth,
    most_of_a_class,
    progress,
    show,
    tell_skipped,
    write,
)
from evaluate_points import run_operating_point


def run_coco(args: argparse.Namespace) -> dict[str, Any]:
    """Score a checkpoint or a results file against COCO ground truth."""
    from evaluation.coco import evaluate_results
    from evaluation.report import report
    from evaluation.results import merge_categories, read_results, write_json

    files = [args.annotations, args.predictions or args.ckpt]
    inference_changes(args)  # refuses them without a checkpoint
    if args.save_predictions and not args.ckpt:
        raise ValueError("--save-predictions writes what a checkpoint predicts; give --ckpt")
    if args.ckpt:
        from lightning_modules.inference import predict_coco

        predicted = predict_coco(
            args.ckpt,
            args.annotations,
            args.images,
            args.batch_size,
            args.bad_data,
            scale=args.scale,
            inference=inference_changes(args),
        )
        truth, rows, skipped = predicted.ground_truth, predicted.rows, predicted.problems
        max_dets = args.max_dets or predicted.max_dets
        if args.save_predictions:
            write_json(args.save_predictions, rows)
    else:
        truth, left_out = ground_truth(args)
        known = {"images": truth["images"]} if args.class_agnostic else truth
        rows, dropped = read_results(args.predictions, known, args.bad_data)
        skipped = left_out + dropped
        max_dets = args.max_dets or [1, 10, 100]
    if args.class_agnostic:
        truth, rows = merge_categories(truth, rows)
    scores = evaluate_results(truth, rows, max_dets=max_dets, backend=args.backend)
    cap, most = scores.max_dets[-1], most_of_a_class(rows)
    if args.ckpt and most > cap:
        print(
            f"note: up to {most} predictions of a picture and class, of which AP counts the best "
            f"{cap}; more by --max-dets"
        )
    title = f"{files[1]} on {args.annotations} ({len(truth['images'])} pictures)"
    show(title, ["metric", "value"], scores.metrics.items())
    if args.per_class:
        per_class = scores.per_class()
        if per_class:
            show("by class", list(per_class[0]), [list(row.values()) for row in per_class])
    extra = {"per_class": scores.per_class(), "skipped": tell_skipped(skipped)}
    return report(sys.argv, scores.metrics, files=files, **extra)


def run_mil(args: argparse.Namespace) -> dict[str, Any]:
    """Score bags with bootstrap intervals."""
    from evaluation.bag_csv import read_bag_csv
    from evaluation.bootstrap import bootstrap_intervals
    from evaluation.mil import confusion_matrix, evaluate_bags
    from evaluation.report import report

    if args.ckpt:
        if args.data is None:
            raise ValueError("mil --ckpt needs --data FILE.npz, SLIDES.csv or RECIPE.yaml")
        from lightning_modules.inference import predict_bags

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
        groups=scores.groups or None,
        draws=args.draws,
        seed=args.seed,
    )
    rows = [(k, v, *intervals.get(k, (None, None))) for k, v in metrics.items()]
    title = f"{files[0]}: {len(scores.bag_ids)} bags, threshold {threshold:g}"
    show(title, ["metric", "value", "2.5 %", "97.5 %"], rows)
    matrix = confusion_matrix(scores.labels, scores.probabilities, task, threshold)
    extra = {
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


def run_mil_cv(args: argparse.Namespace) -> dict[str, Any]:
    """Cross-validate a recipe; folds of the file when it has them, else stratified ones."""
    from evaluation.report import report
    from lightning_modules.mil_cv import BagFiles, cross_validate
    from lightning_modules.mil_cv_recipe import RecipeFiles

    policy = None if args.bad_data == "error" else args.bad_data
    data = BagFiles(args.data, args.features, policy)
    recipe = RecipeFiles(tuple(args.config), tuple(args.overrides))
    counts = (args.folds, args.repeats, args.seed)
    result = cross_validate(
        recipe, data, *counts, progress("folds", 10), together=not args.one_by_one
    )
    for note in (result.training, *result.notes):
        print(f"note: {note}")
    rows = [(k, v["mean"], v["std"], len(v["folds"])) for k, v in result.metrics.items()]
    title = f"{recipe} on {args.data}: {result.protocol}"
    show(title, ["metric", "mean", "std over folds", "values"], rows)
    if args.wandb is not None:
        from callbacks.wandb_folds import WandbOptions, log_cross_validation

        facts = {"recipe": recipe.words, "seed": args.seed, "protocol": result.protocol}
        options = WandbOptions(project=args.wandb, mode=args.wandb_mode)
        values = {name: summary["folds"] for name, summary in result.metrics.items()}
        name = args.config[0].stem
        print(log_cross_validation(options, name, result.fold_numbers, values, args.data, facts))
    return report(
        sys.argv,
        result.metrics,
        files=[*args.config, args.data],
        seed=args.seed,
        protocol=result.protocol,
        training=result.training,
        seconds=result.seconds,
        notes=result.notes,
        skipped=tell_skipped(result.problems),
    )


def run_mil_assumptions(args: argparse.Namespace) -> dict[str, Any]:
    """Run the algorithmic unit tests on an aggregator of bags."""
    from evaluation.mil_assumption_text import record, sentences, settings_of, tables
    from evaluation.mil_assumptions import check_assumptions
    from evaluation.report import report

    if args.model.endswith((".yaml", ".yml")):
        from lightning_modules.mil_assumptions import recipe_model as model_of
    else:
        from evaluation.mil_adapters import import_model as model_of
    settings = settings_of(args.tests, args.seeds, args.bags, args.epochs)
    build = model_of(args.model, args.init_args, adapter=args.adapter)
    found = check_assumptions(build, settings, progress=progress("trainings"))
    for part in tables(found):
        show(*part)
    print("\n".join(sentences(found)))
    return report(sys.argv, {}, files=build.files, **record(found))


def run_compare(args: argparse.Namespace) -> dict[str, Any]:
    """Compare two models on the same bags or pictures, draw by draw."""
    from evaluation.compare import Settings, compare_files
    from evaluation.report import report

    tell = progress("draws")
    how = Settings(args.threshold, args.max_dets, args.draws, args.seed, args.bad_data, tell)
    found = compare_files(args.predictions, args.annotations, how)
    for part in found.tables:
        show(*part)
    for note in found.notes:
        print(f"note: {note}")
    extra = {"skipped": tell_skipped(found.problems), "notes": found.notes, **found.extra}
    return report(sys.argv, found.metrics, files=found.files, seed=args.seed, **extra)


def run_convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert one split of a data set and count what was written and what left out."""
    from datamodules.convert import convert
    from evaluation.report import report
    from evaluation.results import write_json

    names = ("annotations", "images", "data_yaml", "root", "split", "skip_crowds")
    options = {n: getattr(args, n) for n in (*names, "boxes_as_masks", "placing", "bad_data")}
    done = convert(args.source, args.form, args.target, **options)
    if done.content is not None:
        write_json(args.target, done.content)
    title = f"written: {args.target}, pictures in {done.folder}"
    show(title, ["what", "count"], done.counts.items())
    return report(sys.argv, done.counts, files=[done.source])


def _show_problems(problems: Any) -> None:
    from rich.console import Console

    from evaluation.report import problem_table

    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(markup=False, width=160)
    if not problems:
        console.print("no problem found")
        return
    title, table = problem_table(problems)
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table)


def run_check_data(args: argparse.Namespace) -> dict[str, Any]:
    """Check a recipe and all of its data; the record's ``passed`` decides on the exit code."""
    from evaluation.report import report
    from lightning_modules.check_data import check_data

    flags = [word for path in args.config for word in ("--config", str(path))]
    found = check_data([*flags, *args.overrides])
    names = dict.fromkeys(name for counts in found.counts.values() for name in counts)
    rows = [(name, *(counts.get(name) for counts in found.counts.values())) for name in names]
    if rows:
        show("checked", ["what", *found.counts], rows)
    _show_problems(found.problems)
    skips = "skip" in (args.bad_data, found.policy)
    passed = not found.problems or (skips and not found.fatal)
    if not passed:
        hint = (
            "mend them" if found.fatal else "mend them, or leave them out by --data.bad_data skip"
        )
        print(f"error: {len(found.problems)} problem(s), listed above; {hint}", file=sys.stderr)
    extra = {"passed": passed, "counts": found.counts}
    extra["problems"] = [problem.to_dict() for problem in found.problems]
    return report(sys.argv, {}, files=args.config, **extra)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 wrong input."""
    parser = build_parser()
    try:
        args, args.overrides = parser.parse_known_args(argv)
        if args.overrides and args.command not in ("check-data", "mil-cv"):
            parser.error(f"unrecognized arguments: {' '.join(args.overrides)}")
    except SystemExit as stop:  # argparse has printed its message, or the help
        return int(stop.code or 0)
    run = {
        "check-data": run_check_data,
        "coco": run_coco,
        "operating-point": run_operating_point,
        "mil": run_mil,
        "mil-cv": run_mil_cv,
        "mil-assumptions": run_mil_assumptions,
        "compare": run_compare,
        "convert": run_convert,
        "latency": run_latency,
        "export": run_export,
    }[args.command]
    from jsonargparse import ArgumentError

    try:
        check_outputs(args)
        if args.command in ("check-data", "mil-cv", "convert") or getattr(args, "ckpt", None):
            from structures.lean_import import without

            with without("matplotlib"):  # loaded by torchmetrics for its own plots
                import pytorch_lightning  # noqa: F401
        record = run(args)
        write(args.out, record)
    except (ValueError, OSError, ArgumentError) as error:
        if args.debug:
            raise
        from lightning_modules.errors import user_message

        words = sys.argv[1:] if argv is None else argv
        print(f"error: {user_message(error, words)}", file=sys.stderr)
        return 2
    return 0 if record.get("passed", True) else 2


if __name__ == "__main__":
    sys.exit(main())
