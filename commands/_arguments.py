"""The arguments of `evaluate.py`; imports nothing heavy, so that help answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST_SCALE = 16.0  # that of `models.seg.inference.predict`, which takes long to import (A256)
FIGURES = (".png", ".pdf", ".svg")


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
