"""The arguments of `evaluate.py`; imports nothing heavy, so that help answers at once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ABOUT = "Score checkpoints and prediction files, and check data."

LARGEST_SCALE = 16.0  # that of `models.seg.inference`, which takes long to import (A256)
FIGURES = (".png", ".pdf", ".svg")

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


def _number(
    kind: type[int] | type[float], allowed: Callable[[Any], bool], words: str
) -> Callable[[str], Any]:
    """Return an argument type: numbers for which ``allowed`` holds, as ``words`` tell."""

    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            name = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"must be a {name}, got {text!r}") from None
        if not allowed(number):  # NaN is not, because no comparison with it holds
            raise argparse.ArgumentTypeError(f"{words}, got {text}")
        return number

    return read


_seed = _number(int, lambda n: n >= 0, "a seed is not negative")
_positive = _number(int, lambda n: n >= 1, "must be positive")
_not_negative = _number(int, lambda n: n >= 0, "must not be negative")
_confidence = _number(float, lambda x: 0 <= x <= 1, "a confidence is in [0, 1]")
_threshold = _number(float, lambda x: 0 <= x <= 1, "a threshold is a probability in [0, 1]")
_overlap = _number(float, lambda x: 0 < x <= 1, "an overlap is in (0, 1]")
_factor = _number(
    float,
    lambda x: 0 < x <= LARGEST_SCALE,
    f"a factor on the size of pictures is in (0, {LARGEST_SCALE:g}]",
)


def _figure(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in FIGURES:
        raise argparse.ArgumentTypeError(
            f"a figure is written as {', '.join(FIGURES)}; got {text!r}, name e.g. curves.png"
        )
    return path


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no JSON: {error}; write e.g. '{{\"width\": 64}}' in single quotes"
        ) from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object of arguments by name")
    return found


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


def _add_points(point: argparse.ArgumentParser) -> None:
    point.add_argument(
        "--score", type=_confidence, default=0.5, help="confidence from which to count"
    )
    point.add_argument("--iou", type=_overlap, default=0.5, help="overlap that makes a match")
    point.add_argument("--iou-type", choices=("segm", "bbox"), help="default: segm where masks are")
    point.add_argument(
        "--max-dets",
        type=_positive,
        help="detections a picture that AP counts; default: 100, or what cuts no checkpoint's",
    )
    point.add_argument("--seed", type=_seed, default=0, help="seed of the bootstrap")
    point.add_argument(
        "--curves", type=_figure, metavar="FILE.png", help="draw P, R, F1 over all confidences"
    )
    point.add_argument("--wandb", metavar="PROJECT", help="log the table to W&B")
    point.add_argument("--wandb-mode", choices=("offline", "online"), default="offline")
    point.add_argument("--latency", action="store_true", help="also time the checkpoints")
    _add_timing(point)


def _add_timing(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("timing")
    group.add_argument(
        "--warmup", type=_not_negative, default=50, help="pictures that do not count"
    )
    group.add_argument("--pictures", type=_positive, default=200, help="pictures that count")
    group.add_argument("--threads", type=_positive, help="of torch and OpenCV; default: theirs")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument(
        "--precision", choices=("32-true", "16-mixed", "bf16-mixed"), default="32-true"
    )


def _add_latency(latency: argparse.ArgumentParser) -> None:
    latency.add_argument(
        "--ckpt", type=Path, nargs="+", required=True, help="segmentation checkpoint(s)"
    )
    latency.add_argument(
        "--annotations", type=Path, help="COCO file of pictures; without it noise is timed"
    )
    latency.add_argument("--images", type=Path, help="picture folder to use")
    latency.add_argument(
        "--size", type=_positive, metavar="PX",
        help="longer side of pictures; default: as the checkpoint was validated, of noise 640",
    )  # fmt: skip
    latency.add_argument("--batch-sizes", type=_positive, nargs="+", default=[1, 8])
    _add_timing(latency)
    _add_inference(latency)


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("--ckpt", type=Path, required=True, help="checkpoint of YOLOSeg")
    export.add_argument("--out", dest="target", type=Path, required=True, help="ONNX file to write")
    export.add_argument(
        "--check", action="store_true", help="fail where onnxruntime is not there to compare with"
    )
    export.add_argument("--report", dest="out", type=Path, help="write the differences as JSON")


def _add_inference(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("with --ckpt, instead of what the checkpoint says")
    group.add_argument(
        "--tile",
        type=_not_negative,
        metavar="PX",
        help="predict in tiles of this side at most, once resized; 0: whole",
    )
    group.add_argument(
        "--tile-overlap",
        type=_positive,
        metavar="PX",
        help="shared by neighbours; default: a fifth",
    )
    group.add_argument(
        "--tile-max-dets",
        type=_positive,
        metavar="N",
        help="objects kept of a picture in tiles; default: all that its tiles have found",
    )
    group.add_argument(
        "--scale", type=_factor, help="factor on the size of every picture, instead of set sizes"
    )
    group.add_argument(
        "--tta",
        action=argparse.BooleanOptionalAction,
        help="also predict pictures mirrored; or one view of each",
    )
    group.add_argument(
        "--tta-scales", type=_factor, nargs="+", metavar="S", help="sizes of the views, e.g. 1 1.25"
    )


def inference_changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return what flags change of `InferenceOptions`, by name.

    Raises:
        ValueError: there are such flags and no checkpoint.
    """
    changes: dict[str, Any] = {}
    if args.tile is not None:
        changes["tile"] = args.tile or None
    if args.tile_overlap is not None:
        changes["overlap"] = args.tile_overlap
    if args.tile_max_dets is not None:
        changes["tile_max_dets"] = args.tile_max_dets
    if args.tta is not None:
        changes["flip"] = args.tta
        if not args.tta:
            changes |= {"flip_vertical": False, "scales": (1.0,)}
    if args.tta_scales:
        changes["scales"] = tuple(args.tta_scales)
    if (changes or args.scale is not None) and not args.ckpt:
        raise ValueError(
            "--tile, --tile-overlap, --tile-max-dets, --scale, --tta and --tta-scales are for "
            "predicting with a checkpoint: give --ckpt instead of --predictions"
        )
    return changes


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


def _add_assumptions(tests: argparse.ArgumentParser) -> None:
    tests.add_argument(
        "--model",
        required=True,
        help="dotted name of a torch module's class, of ours or not, or a recipe of configs/mil",
    )
    tests.add_argument(
        "--init-args",
        type=_json_object,
        default={},
        metavar="JSON",
        help="arguments of its constructor; of a recipe: changes of its learner's",
    )
    tests.add_argument(
        "--adapter",
        choices=("batch", "bag", "packed"),
        help="batch: module(X (B,N,D), mask (B,N)); bag: module(X (N,D)); packed: "
        "module(BagBatch); default: packed for names under models., else as forward looks",
    )
    tests.add_argument("--tests", type=int, nargs="+", choices=(1, 2, 3), default=(1, 2, 3))
    tests.add_argument("--seeds", type=_positive, default=3, help="how many; a verdict needs all")
    tests.add_argument(
        "--bags", type=_positive, default=2000, help="training bags; half as many are tested on"
    )
    tests.add_argument("--epochs", type=_positive, default=12)


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "--predictions",
        type=Path,
        nargs=2,
        required=True,
        metavar=("A", "B"),
        help="CSV of bags or COCO results, or the run folder that holds them",
    )
    compare.add_argument("--annotations", type=Path, help="COCO ground truth, for pictures")
    compare.add_argument(
        "--threshold",
        type=_threshold,
        nargs="+",
        default=(),
        help="for both or for each; default: that of the run's checkpoint, or 0.5",
    )
    compare.add_argument(
        "--max-dets", type=_positive, nargs="+", default=(), help="of pictures; default: 1 10 100"
    )
    compare.add_argument("--draws", type=_positive, default=1000, help="bootstrap draws")
    compare.add_argument("--seed", type=_seed, default=0, help="seed of the bootstrap")


def _add_convert(convert: argparse.ArgumentParser) -> None:
    forms = ("coco", "yolo")
    convert.add_argument("--from", dest="source", choices=forms, required=True)
    convert.add_argument("--to", dest="form", choices=forms, required=True)
    convert.add_argument("--annotations", type=Path, help="COCO file to read")
    convert.add_argument("--images", type=Path, help="its picture folder")
    convert.add_argument("--data", dest="data_yaml", type=Path, help="data.yaml to read")
    convert.add_argument("--root", type=Path, help="folder of its data, instead of its `path`")
    convert.add_argument("--split", help="default: SPLIT of instances_SPLIT.json")
    convert.add_argument(
        "--out", dest="target", type=Path, required=True, help="folder or JSON file to write"
    )
    convert.add_argument("--skip-crowds", action="store_true", help="leave crowd regions out")
    convert.add_argument(
        "--boxes-as-masks", action="store_true", help="take lines of detection sets as rectangles"
    )
    copied: dict[str, Any] = {"choices": ("copy", "link"), "default": "copy"}
    convert.add_argument("--pictures", dest="placing", help="how a YOLO set gets them", **copied)
    convert.add_argument("--bad-data", choices=("error", "skip"), default="error")
    convert.add_argument("--report", dest="out", type=Path, help="write the counts as JSON")
