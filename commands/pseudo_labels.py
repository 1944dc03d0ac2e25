"""`evaluate.py pseudo-labels`: detections of unlabelled objects as labels to train on."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands._arguments import (
    add_bad_data,
    add_coco_source,
    add_known,
    add_output,
    confidence,
    fraction,
    inference_changes,
    positive,
)
from commands._sources import category_split, coco_predictions, ground_truth
from commands._tables import report_bad_data, show

if TYPE_CHECKING:
    from formats.coco.splits import CategorySplit

SUMMARY = "confident detections beside the known objects as labels of a training set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_coco_source(parser)
    add_known(parser)
    add_output(
        parser,
        "--out",
        dest="target",
        required=True,
        help="annotations to write: the known ones and the pseudo-labels",
    )
    add_output(parser, "--report", dest="out", help="write the counts as JSON")
    add_bad_data(parser, annotations=True)
    group = parser.add_argument_group("detections that become labels, the best of an image first")
    group.add_argument("--score", type=confidence, default=0.9, help="smallest score; default: .9")
    group.add_argument(
        "--max-iou",
        type=fraction,
        default=0.2,
        help="largest mask IoU with a known object, or share of the detection that a known crowd "
        "covers; default: .2",
    )
    group.add_argument(
        "--nms", type=fraction, default=0.2, help="largest mask IoU with a better one; default: .2"
    )
    group.add_argument(
        "--per-image", type=positive, default=10, help="most of an image; default: 10"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the known annotations of a file and pseudo-labels beside them."""
    from evaluation.open_world.pseudo_labels import Rules, add_pseudo_labels
    from evaluation.report.record import report
    from formats.files import write_json

    inference_changes(args)  # raises without a checkpoint
    split = _split(args)
    truth, left_out = ground_truth(args, split.known)
    _check_masks(truth["annotations"], args.annotations)
    source = args.ckpt or args.predictions
    found = coco_predictions(args, source, truth, any_category=True, masks=True)
    _check_masks(found.rows, source)
    rules = Rules(args.score, args.max_iou, args.nms, args.per_image)
    content, outcomes = add_pseudo_labels(truth, found.rows, rules)
    write_json(args.target, content)
    made = content["annotations"][len(truth["annotations"]) :]
    counts = {
        "images": len(truth["images"]),
        "images_with_pseudo_labels": len({a["image_id"] for a in made}),
        "known_annotations": len(truth["annotations"]),
        "detections": len(found.rows),
        **outcomes,
    }
    show(f"written to {args.target}", ["what", "count"], counts.items())
    _warn_about_score(found.rows, args)
    extra: dict[str, Any] = report_bad_data(left_out + found.problems)
    files = [args.annotations, source]
    return report(sys.argv, counts, files=files, known=split.record(), **extra)


def _warn_about_score(rows: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> None:
    """Say which scores there are if none is high enough."""
    scores = sorted((float(row["score"]) for row in rows), reverse=True)
    if scores and scores[0] < args.score:
        warnings.warn(
            f"no detection has a score of {args.score:g}: the highest is {scores[0]:.3f}, and "
            f"{len(scores) // 100 + 1} have {scores[len(scores) // 100]:.3f} or more; give a lower "
            "--score",
            stacklevel=2,
        )


def _split(args: argparse.Namespace) -> CategorySplit:
    """Return the known categories, which need not leave a novel one.

    Raises:
        ValueError: none are given, none are in the file, or pseudo-labels are among them.
    """
    from formats.coco.document import load_categories
    from formats.coco.pseudo import NAME, category_id

    split = category_split(args)
    if split is None:
        what = f"{args.ckpt} was trained without any" if args.ckpt else "--predictions names none"
        raise ValueError(f"pseudo-labels needs the known categories: {what}; give --known voc")
    if not split.known:
        raise ValueError(
            f"split {split.name}: none of the known categories is in {args.annotations}; name some "
            "of its categories, such as cat dog"
        )
    if category_id(load_categories(args.annotations)) in split.known:
        raise ValueError(
            f"{args.annotations}: the category {NAME!r} holds pseudo-labels, which are made anew; "
            "leave it out of --known"
        )
    return split


def _check_masks(records: Sequence[Mapping[str, Any]], source: Path) -> None:
    """Raise a ValueError unless all annotations or rows have masks, which are what is compared."""
    bare = [number for number, record in enumerate(records) if not record.get("segmentation")]
    if bare:
        first = records[bare[0]]
        name = f"annotation {first['id']}" if "id" in first else f"row {bare[0]}"
        raise ValueError(
            f"{source}: {name} of image {first['image_id']} has no segmentation ({len(bare)} of "
            f"{len(records)} have none); pseudo-labels are masks that overlap no known object, so "
            "take a model that predicts masks, and annotations that have them"
        )
