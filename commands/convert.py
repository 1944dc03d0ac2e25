"""`evaluate.py convert`: convert COCO data to YOLO segmentation text, or back."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import add_bad_data, add_input, add_output
from commands._tables import show

SUMMARY = "COCO instances to YOLO segmentation text, or back"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    forms = ("coco", "yolo")
    parser.add_argument("--from", dest="source", choices=forms, required=True)
    parser.add_argument("--to", dest="form", choices=forms, required=True)
    add_input(parser, "--annotations", help="COCO file to read")
    add_input(parser, "--images", help="image folder of the COCO file")
    add_input(parser, "--data", dest="data_yaml", help="data.yaml to read")
    add_input(parser, "--root", help="data folder, instead of `path` in data.yaml")
    parser.add_argument("--split", help="default: SPLIT of instances_SPLIT.json")
    add_output(
        parser,
        "--out",
        dest="target",
        folder=_folder,
        required=True,
        help="folder or JSON file to write",
    )
    parser.add_argument("--skip-crowds", action="store_true", help="leave crowd regions out")
    parser.add_argument(
        "--boxes-as-masks", action="store_true", help="convert the boxes of detection sets to masks"
    )
    copied: dict[str, Any] = {"choices": ("copy", "link"), "default": "copy"}
    parser.add_argument("--pictures", dest="placing", help="copy or link the images", **copied)
    add_bad_data(parser, annotations=True)
    add_output(parser, "--report", dest="out", help="write the counts as JSON")


def _folder(args: argparse.Namespace) -> str | None:
    return "the YOLO set" if args.form == "yolo" else None


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Convert one split of a data set and count the records written and left out."""
    from evaluation.report.record import report
    from formats.files import write_json
    from formats.yolo.convert import convert

    names = ("annotations", "images", "data_yaml", "root", "split", "skip_crowds")
    options = {n: getattr(args, n) for n in (*names, "boxes_as_masks", "placing", "bad_data")}
    done = convert(args.source, args.form, args.target, **options)
    if done.content is not None:
        write_json(args.target, done.content)
    title = f"written: {args.target}, images in {done.folder}"
    show(title, ["what", "count"], done.counts.items())
    return report(sys.argv, done.counts, files=[done.source])
