"""`evaluate.py latency` and `export`: checkpoints on their way to use."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from commands._arguments import _add_inference, _add_timing, _positive
from commands._tables import show
from commands._timing import _SECTIONS, _pictures, tell_latency, time_checkpoints, timing_plan


def run_latency(args: argparse.Namespace) -> dict[str, Any]:
    """Time checkpoints side by side."""
    from evaluation.report.model_table import TIMES, letter
    from evaluation.report.record import report

    rows = time_checkpoints(args, timing_plan(args, args.batch_sizes))
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
        for number, row in enumerate(rows)  # of each batch size in the order of the names
    ]
    passes = {row["batch_size"]: row["pictures"] // row["batch_size"] for row in rows}
    counts = [f"{n} passes of {size} picture(s)" for size, n in passes.items()]
    title = f"milliseconds a picture, medians of {', '.join(counts)}"
    show(title, [*columns, "weights", "peak MiB"], lines, width=120)
    tell_latency(rows)
    print(f"pictures: {_pictures(args)}")
    files = [*args.ckpt, *([args.annotations] if args.annotations else [])]
    extra: dict[str, Any] = {
        "latency": rows,
        "sections": _SECTIONS,
        "pictures": str(_pictures(args)),
    }
    return report(sys.argv, {}, files=files, **extra)


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
