"""`evaluate.py convert`: convert COCO data to YOLO segmentation text, or back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from commands._tables import show


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


def run_convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert one split of a data set and count what was written and what left out."""
    from evaluation.report.record import report
    from formats.files import write_json
    from formats.yolo.convert import convert

    names = ("annotations", "images", "data_yaml", "root", "split", "skip_crowds")
    options = {n: getattr(args, n) for n in (*names, "boxes_as_masks", "placing", "bad_data")}
    done = convert(args.source, args.form, args.target, **options)
    if done.content is not None:
        write_json(args.target, done.content)
    title = f"written: {args.target}, pictures in {done.folder}"
    show(title, ["what", "count"], done.counts.items())
    return report(sys.argv, done.counts, files=[done.source])
