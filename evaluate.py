"""The evaluation scripts: score checkpoints and prediction files. Thin: the work is elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from commands._arguments import _add_inference, _add_points, _positive
from commands._outputs import check_outputs
from commands._tables import write
from commands.check_data import run_check_data
from commands.coco import run_coco
from commands.compare import _add_compare, run_compare
from commands.convert import _add_convert, run_convert
from commands.export import _add_export, run_export
from commands.latency import _add_latency, run_latency
from commands.mil import _add_mil, run_mil
from commands.mil_assumptions import _add_assumptions, run_mil_assumptions
from commands.mil_cv import run_mil_cv
from commands.operating_point import run_operating_point


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
        from engine.config.errors import user_message

        words = sys.argv[1:] if argv is None else argv
        print(f"error: {user_message(error, words)}", file=sys.stderr)
        return 2
    return 0 if record.get("passed", True) else 2


_ABOUT = "Score checkpoints and prediction files, and check data."


COMMANDS = {
    "check-data": "list everything that is wrong with a recipe and its data, without training",
    "coco": "COCO AP and AR of boxes and masks",
    "operating-point": "precision, recall and F1 at a confidence, one or two models",
    "mil": "bag metrics with bootstrap intervals",
    "mil-cv": "cross-validation of a MIL recipe on one file of bags",
    "mil-assumptions": "algorithmic unit tests: does an aggregator respect its assumption",
    "compare": "two models on the same bags or pictures: paired bootstrap, DeLong's test",
    "latency": "time of load, network and post-processing of checkpoints, side by side",
    "export": "ONNX file of a one-stage segmentation checkpoint",
    "convert": "COCO instances to YOLO segmentation text, or back",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands; imports nothing heavy."""
    parser = argparse.ArgumentParser(prog="evaluate.py", description=_ABOUT)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subs = {name: commands.add_parser(name, help=text) for name, text in COMMANDS.items()}
    for name, sub in subs.items():
        if name not in ("convert", "export"):
            sub.add_argument("--out", type=Path, help="write the numbers as JSON")
        sub.add_argument("--debug", action="store_true", help="show a traceback on wrong input")
    for name in ("check-data", "coco", "operating-point", "mil", "mil-cv", "compare", "latency"):
        subs[name].add_argument(
            "--bad-data",
            choices=("error", "skip"),
            default="error",
            help="stop at faulty records, or leave them out and count them",
        )
    subs["check-data"].add_argument(
        "--config",
        type=Path,
        action="append",
        required=True,
        help="recipe, then overlays; any flag of `train.py fit` may follow, e.g. --data.root DIR",
    )
    for name in ("coco", "operating-point"):
        source = subs[name].add_mutually_exclusive_group(required=True)
        many: dict[str, Any] = {"nargs": "+"} if name == "operating-point" else {}
        source.add_argument("--ckpt", type=Path, help="checkpoint(s)", **many)
        source.add_argument("--predictions", type=Path, help="COCO results file(s)", **many)
        subs[name].add_argument("--annotations", type=Path, required=True, help="COCO ground truth")
        subs[name].add_argument("--images", type=Path, help="picture folder to use or check")
        subs[name].add_argument("--batch-size", type=_positive, help="default: the checkpoint's")
        _add_inference(subs[name])
    coco = subs["coco"]
    coco.add_argument(
        "--max-dets", type=_positive, nargs="+", help="default: the checkpoint's, or 1 10 100"
    )
    coco.add_argument("--backend", choices=("fast", "pycocotools"), default="fast")
    coco.add_argument(
        "--class-agnostic", action="store_true", help="score all categories as one class"
    )
    coco.add_argument("--per-class", action="store_true", help="also print AP by class")
    coco.add_argument("--save-predictions", type=Path, help="write the results file (with --ckpt)")
    _add_points(subs["operating-point"])
    _add_latency(subs["latency"])
    _add_export(subs["export"])
    _add_mil(subs["mil"], subs["mil-cv"])
    _add_assumptions(subs["mil-assumptions"])
    _add_compare(subs["compare"])
    _add_convert(subs["convert"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
