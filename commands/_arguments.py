"""Arguments that several commands of `evaluate.py` share, without slow imports.

`add_input` and `add_output` also record which arguments are files, so that `check_outputs` of
`commands/_outputs.py` can protect them. The argument types reject values that are out of range.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LARGEST_SCALE = 16.0  # same as in `models.seg.inference.predict`, which is slow to import (A256)
FIGURES = (".png", ".pdf", ".svg")


def _number(
    kind: type[int] | type[float], allowed: Callable[[Any], bool], words: str
) -> Callable[[str], Any]:
    """Return an argument type for numbers that satisfy ``allowed``; ``words`` is the error."""

    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            name = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"must be a {name}, got {text!r}") from None
        if not allowed(number):  # also true for NaN: every comparison with it is False
            raise argparse.ArgumentTypeError(f"{words}, got {text}")
        return number

    return read


seed = _number(int, lambda n: n >= 0, "a seed is not negative")
positive = _number(int, lambda n: n >= 1, "must be positive")
at_least_two = _number(int, lambda n: n >= 2, "must be at least 2")
severity = _number(int, lambda n: 1 <= n <= 5, "a severity is 1, 2, 3, 4 or 5")
not_negative = _number(int, lambda n: n >= 0, "must not be negative")
confidence = _number(float, lambda x: 0 <= x <= 1, "a confidence is in [0, 1]")
decision_threshold = _number(float, lambda x: 0 <= x <= 1, "a threshold is a probability in [0, 1]")
fraction = _number(float, lambda x: 0 <= x <= 1, "an overlap is in [0, 1]")
overlap = _number(float, lambda x: 0 < x <= 1, "an overlap is in (0, 1]")
share = _number(float, lambda x: 0 < x < 1, "a share is between 0 and 1")
exposure_ratio = _number(
    float, lambda x: 1 <= x < float("inf"), "a reduction of the exposure is at least 1"
)
resolution = _number(float, lambda x: 0.05 <= x <= 20, "micrometres per pixel are in [0.05, 20]")
camera_bits = _number(int, lambda n: 8 <= n <= 14, "a camera has 8 to 14 bits")
factor = _number(
    float,
    lambda x: 0 < x <= LARGEST_SCALE,
    f"a factor on the size of images is in (0, {LARGEST_SCALE:g}]",
)


def figure(text: str) -> Path:
    """Return the path of a figure to write; an argument type."""
    path = Path(text)
    if path.suffix.lower() not in FIGURES:
        raise argparse.ArgumentTypeError(
            f"a figure is written as {', '.join(FIGURES)}; got {text!r}, name e.g. curves.png"
        )
    return path


class Output(NamedTuple):
    """Record of an argument that names something to write, for `check_outputs`.

    Attributes:
        flag: the flag, such as ``--out``.
        folder: function of all arguments that returns a description of the folder to write, or
            None for a file.
        json_inputs: name of folders from which the command reads JSON. JSON files in them are not
            replaced; JSON files elsewhere in the inputs count as earlier reports and may be.
        continued: whether an existing file is read and extended, so that it may be anywhere.
    """

    flag: str
    folder: Callable[[argparse.Namespace], str | None] | None = None
    json_inputs: str | None = None
    continued: bool = False


def add_input(container: Any, flag: str, **options: Any) -> None:
    """Add an argument that names a file or folder to read.

    Args:
        container: a parser or an argument group.
        flag: the flag, such as ``--data``.
        **options: options of ``add_argument``; the default type is a path.
    """
    action = container.add_argument(flag, **{"type": Path, **options})
    known = container.get_default("inputs") or {}
    container.set_defaults(inputs={**known, action.dest: flag})


def add_output(
    container: Any,
    flag: str,
    *,
    folder: Callable[[argparse.Namespace], str | None] | None = None,
    json_inputs: str | None = None,
    **options: Any,
) -> None:
    """Add an argument that names a file to write; see `add_input` and `Output`."""
    action = container.add_argument(flag, **{"type": Path, **options})
    known = container.get_default("outputs") or {}
    output = Output(flag, folder, json_inputs)
    container.set_defaults(outputs={**known, action.dest: output})


def add_out(parser: argparse.ArgumentParser, json_inputs: str | None = None) -> None:
    """Add ``--out``, the JSON file for the record that a command returns; see `Output`."""
    add_output(parser, "--out", json_inputs=json_inputs, help="write the numbers as JSON")


def add_bad_data(parser: argparse.ArgumentParser, *, annotations: bool = False) -> None:
    """Add ``--bad-data``, whether faulty records are errors, left out or repaired.

    Args:
        parser: the parser of a command.
        annotations: whether the command reads annotations of images, which can be repaired.
    """
    mend = ", or mend annotations where that is possible" if annotations else ""
    parser.add_argument(
        "--bad-data",
        choices=("error", "skip", "repair") if annotations else ("error", "skip"),
        default="error",
        help=f"stop at faulty records, or leave them out and count them{mend}",
    )


def add_coco_source(parser: argparse.ArgumentParser, **many: Any) -> None:
    """Add ``--ckpt`` or ``--predictions``, the ground truth, and how a checkpoint predicts.

    Args:
        parser: parser of a command that scores predictions for images.
        **many: ``nargs`` if several models can be given.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    add_input(source, "--ckpt", help="checkpoint(s)", **many)
    add_input(source, "--predictions", help="COCO results file(s)", **many)
    add_input(parser, "--annotations", required=True, help="COCO ground truth")
    add_input(parser, "--images", help="image folder to use or check")
    parser.add_argument("--batch-size", type=positive, help="default: the checkpoint's")
    add_inference(parser)


def add_known(parser: argparse.ArgumentParser) -> None:
    """Add ``--known``, the split of `commands._sources.category_split`."""
    parser.add_argument(
        "--known",
        nargs="+",
        metavar="SPLIT",
        help="known categories: voc, coco-uvo, coco-objects365, coco-lvis, coco-lvis-detic, "
        "lvis-ow, a JSON file, ids or names; by default those of the checkpoint",
    )


def add_features(parser: argparse.ArgumentParser) -> None:
    """Add ``--features``, the folder of the slides' features."""
    add_input(parser, "--features", help="folder of the slides' features (with a CSV)")


def add_allow_overlap(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-overlap``, whether data that should be apart may share patients or bags."""
    parser.add_argument(
        "--allow-overlap",
        action="store_true",
        help="go on although other data share patients or bags with the training, or validation "
        "bags with those that are scored",
    )


def add_timing(sub: argparse.ArgumentParser) -> None:
    """Add the arguments for timing checkpoints."""
    group = sub.add_argument_group("timing")
    group.add_argument("--warmup", type=not_negative, default=50, help="warm-up images")
    group.add_argument("--pictures", type=positive, default=200, help="timed images")
    group.add_argument("--threads", type=positive, help="threads of torch and OpenCV")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument(
        "--precision", choices=("32-true", "16-mixed", "bf16-mixed"), default="32-true"
    )


def add_inference(sub: argparse.ArgumentParser) -> None:
    """Add the arguments that change how a checkpoint predicts; see `inference_changes`."""
    group = sub.add_argument_group("with --ckpt, instead of the checkpoint's settings")
    group.add_argument(
        "--tile",
        type=not_negative,
        metavar="PX",
        help="largest side of a tile after resizing; 0: predict whole images",
    )
    group.add_argument(
        "--tile-overlap",
        type=positive,
        metavar="PX",
        help="overlap of neighbouring tiles; default: a fifth of the side",
    )
    group.add_argument(
        "--tile-max-dets",
        type=positive,
        metavar="N",
        help="detections kept per tiled image; default: all detections of its tiles",
    )
    group.add_argument(
        "--scale", type=factor, help="factor on the size of every image, instead of fixed sizes"
    )
    group.add_argument(
        "--tta",
        action=argparse.BooleanOptionalAction,
        help="also predict mirrored images, or a single view per image",
    )
    group.add_argument(
        "--tta-scales", type=factor, nargs="+", metavar="S", help="scales of the views: 1 1.25"
    )


def inference_changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of `InferenceOptions` that flags change, by name.

    Raises:
        ValueError: such flags are given without a checkpoint.
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
