"""`evaluate.py latency`: latency of checkpoints, side by side."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from commands._arguments import (
    add_bad_data,
    add_inference,
    add_input,
    add_out,
    add_timing,
    positive,
)
from commands._tables import show
from commands._timing import SECTIONS, print_latency_notes, time_checkpoints, timing_plan

SUMMARY = "time of load, network and post-processing of checkpoints, side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_bad_data(parser, annotations=True)
    add_input(parser, "--ckpt", nargs="+", required=True, help="segmentation checkpoint(s)")
    add_input(parser, "--annotations", help="COCO file of images; without it noise is timed")
    add_input(parser, "--images", help="image folder to use")
    parser.add_argument(
        "--size", type=positive, metavar="PX",
        help="longer side of images; default: the checkpoint's validation size, or 640 for noise",
    )  # fmt: skip
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=[1, 8])
    add_timing(parser)
    add_inference(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time checkpoints side by side."""
    from evaluation.report.model_table import TIMES, letter
    from evaluation.report.record import report

    plan = timing_plan(args, args.batch_sizes)
    rows = time_checkpoints(args, plan)
    names = [str(path) for path in args.ckpt]
    for number, name in enumerate(names):
        print(f"{letter(number)}: {name}")
    columns = ["model", "batch", *(f"{t} ms" for t in TIMES), "p95", "pictures/s", "detections"]
    lines = [
        [
            letter(number % len(names)),
            row["batch_size"],
            *(f"{row[f'{time}_ms']:.2f}" for time in TIMES),
            f"{row['total_ms_p95']:.2f}",
            f"{row['pictures_per_second']:.1f}",
            f"{row['detections']:.1f}",
            f"{row['parameters'] / 1e6:.2f}M",
            "-" if row["peak_memory_mib"] is None else f"{row['peak_memory_mib']:.0f}",
        ]
        for number, row in enumerate(rows)  # for each batch size, in the order of the names
    ]
    passes = {row["batch_size"]: row["pictures"] // row["batch_size"] for row in rows}
    counts = [f"{n} passes of {size} image(s)" for size, n in passes.items()]
    title = f"milliseconds per image, medians of {', '.join(counts)}"
    show(title, [*columns, "weights", "peak MiB"], lines, width=120)
    print_latency_notes(rows)
    print(f"images: {plan.images}")
    files = [*args.ckpt, *([args.annotations] if args.annotations else [])]
    extra: dict[str, Any] = {
        "latency": rows,
        "sections": SECTIONS,
        "pictures": str(plan.images),
    }
    return report(sys.argv, {}, files=files, **extra)
