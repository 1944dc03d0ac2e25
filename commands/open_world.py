"""`evaluate.py open-world`: known and novel objects by the protocols of the literature."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from commands._arguments import (
    add_bad_data,
    add_coco_source,
    add_known,
    add_out,
    add_output,
    inference_changes,
    positive,
)
from commands._sources import category_split, coco_predictions, ground_truth
from commands._tables import report_bad_data, show

if TYPE_CHECKING:
    from formats.coco.splits import CategorySplit

SUMMARY = "AR and AP of novel objects, by named protocols"
PROTOCOLS = ("exclude-known", "novel-only", "class-wise", "all", "lvis-ow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_bad_data(parser, annotations=True)
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        nargs="+",
        required=True,
        help="what becomes of known objects, see docs/open_world.md",
    )
    add_coco_source(parser)
    add_known(parser)
    parser.add_argument(
        "--max-dets",
        type=positive,
        nargs="+",
        help="caps on the detections of an image; default: 1 10 20 30 50 100 300 500 1000 1500, "
        "and 100 for lvis-ow",
    )
    parser.add_argument(
        "--iou-type", choices=("segm", "bbox"), help="default: both where there are masks"
    )
    parser.add_argument(
        "--drop-empty",
        action="store_true",
        help="leave out images without a novel object (novel-only)",
    )
    add_output(parser, "--save-predictions", help="write the results file (with --ckpt)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Score detections by one or several protocols."""
    from evaluation.open_world.protocols import check_protocol, evaluate_protocol, kept_detections
    from evaluation.report.record import report
    from formats.coco.results import write_results

    inference_changes(args)  # raises without a checkpoint
    if args.save_predictions and not args.ckpt:
        raise ValueError("--save-predictions writes what a checkpoint predicts; give --ckpt")
    split = _split(args)
    protocols = list(dict.fromkeys(args.protocol))
    dropping = args.drop_empty and "novel-only" not in protocols  # it has no effect on them
    for protocol in protocols:
        check_protocol(protocol, split, dropping)
    source = args.ckpt or args.predictions
    truth, left_out = ground_truth(args)
    found = coco_predictions(args, source, truth, any_category=True)
    if args.save_predictions:
        write_results(args.save_predictions, found.rows)
    rows = found.rows
    types = _iou_types(args, truth, rows)
    scores = {
        protocol: evaluate_protocol(
            protocol,  # type: ignore[arg-type]
            truth,
            rows,
            split,
            caps=args.max_dets,
            iou_types=types,
            drop_empty=args.drop_empty and protocol == "novel-only",
        )
        for protocol in protocols
    }
    kept = kept_detections(truth, rows)
    caps = _caps(args, protocols)
    _warn_about_caps(kept["most"], caps)
    names = list(dict.fromkeys(name for values in scores.values() for name in values))
    title = f"{source} on {args.annotations} ({len(truth['images'])} images)"
    show(title, ["metric", *scores], [[n, *(s.get(n) for s in scores.values())] for n in names])
    print(f"detections of an image: at most {kept['most']}, median {kept['median']:g}")
    metrics: Mapping[str, Any] = scores if len(scores) > 1 else scores[protocols[0]]
    extra = {
        "protocol": protocols if len(protocols) > 1 else protocols[0],
        "known": None if split is None else split.record(),
        "max_dets": caps,
        "kept": kept,
        **report_bad_data(left_out + found.problems),
    }
    return report(sys.argv, metrics, files=[args.annotations, source], **extra)


def _split(args: argparse.Namespace) -> CategorySplit | None:
    """Return the split for the annotations, or None if no protocol needs one.

    It is that of the checkpoint unless ``--known`` is given.

    Raises:
        ValueError: a protocol needs a split, and the checkpoint was trained without one.
    """
    from formats.coco.document import load_categories
    from formats.coco.splits import check_both

    split = category_split(args)
    if split is None and args.ckpt and set(args.protocol) != {"all"}:
        raise ValueError(
            f"{args.ckpt}: was trained without known categories; name them, --known voc, or 1 2 3"
        )
    if split is not None and set(args.protocol) - {"all", "lvis-ow"}:
        check_both(split, load_categories(args.annotations), str(args.annotations))
    return split


def _iou_types(
    args: argparse.Namespace, truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> tuple[Any, ...]:
    """Return the IoU types to score: those that all rows and all objects have.

    Raises:
        ValueError: masks are asked for, but an object or a row has none.
    """
    masks = {
        str(args.ckpt or args.predictions): all(row.get("segmentation") for row in rows),
        str(args.annotations): all(a.get("segmentation") for a in truth["annotations"]),
    }
    boxes = all(row.get("bbox") for row in rows)
    if args.iou_type == "segm" and not all(masks.values()):
        lacking = next(file for file, there in masks.items() if not there)
        raise ValueError(f"{lacking}: not all records have masks; score boxes, --iou-type bbox")
    if args.iou_type == "bbox" and not boxes:
        raise ValueError(f"{args.predictions}: not all rows have boxes; score masks")
    if args.iou_type:
        return (args.iou_type,)
    types = [kind for kind, there in (("bbox", boxes), ("segm", all(masks.values()))) if there]
    if not types:
        raise ValueError(
            f"{args.predictions}: some rows have masks alone and others boxes alone, or the "
            "annotations lack the masks; export both"
        )
    return tuple(types)


def _caps(args: argparse.Namespace, protocols: Sequence[str]) -> Any:
    from evaluation.open_world.protocols import caps_of

    caps = {protocol: caps_of(protocol, args.max_dets) for protocol in protocols}
    return caps if len(caps) > 1 else next(iter(caps.values()))


def _warn_about_caps(most: int, caps: Any) -> None:
    """Warn where detections seem to have been cut at one of the caps."""
    listed = {cap for of in (caps.values() if isinstance(caps, dict) else [caps]) for cap in of}
    if most in listed and most < 1500 and most > 1:
        warnings.warn(
            f"images have at most {most} detections, exactly a cap: what detects known objects "
            "leaves the budget, so keep more of them (1 500 for AR@1000), or recall is too low",
            stacklevel=2,
        )
