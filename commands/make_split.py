"""`evaluate.py make-split`: the annotations of a benchmark with known and novel categories."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import add_input, add_output
from commands._tables import show

SUMMARY = "annotations of the open-world benchmark LVIS-OW from LVIS v1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--name", choices=("lvis-ow",), required=True)
    add_input(parser, "--train", required=True, help="lvis_v1_train.json")
    add_input(parser, "--val", required=True, help="lvis_v1_val.json")
    add_output(
        parser,
        "--out",
        dest="target",
        folder=lambda _: "the annotations",
        required=True,
        help="folder; the files are annotations/instances_train.json and instances_val.json",
    )
    add_output(parser, "--report", dest="out", help="write the counts as JSON")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the annotations of a benchmark."""
    from evaluation.report.record import report
    from formats.coco.document import load_coco
    from formats.coco.lvis_ow import lvis_ow
    from formats.coco.splits import find_split
    from formats.files import write_json

    folder = args.target / "annotations"
    files = {name: folder / f"instances_{name}.json" for name in ("train", "val")}
    for given in (args.train, args.val):
        if given.resolve() in {file.resolve() for file in files.values()}:
            raise ValueError(f"--out {args.target} would replace {given}; name another folder")
    train, val = load_coco(args.train), load_coco(args.val)
    split = find_split([args.name], train["categories"], str(args.train))
    find_split([args.name], val["categories"], str(args.val))
    if len(train["categories"]) < len(split.names):
        raise ValueError(
            f"{args.train}: {len(train['categories'])} categories, LVIS v1 has {len(split.names)}; "
            "give lvis_v1_train.json"
        )
    done = lvis_ow(train, val, split)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(files["train"], done.train)
    write_json(files["val"], done.val)
    show(f"written to {folder}", ["what", "count"], done.counts.items())
    return report(sys.argv, done.counts, files=[args.train, args.val], known=split.record())
