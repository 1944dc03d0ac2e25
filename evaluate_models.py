"""`evaluate.py latency` and `export`: checkpoints on their way to use."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evaluate_arguments import inference_changes
from evaluate_output import progress, show

_SECTIONS = (
    "load: reading, decoding, resizing, padding and copying to the device; network: normalising "
    "and every learned layer, of two-stage models with the suppression between them; post: "
    "suppression of one-stage models, masks at the size of the original pictures, and their "
    "run-length encoding"
)


class TimingPlan(NamedTuple):
    """How checkpoints are timed: the device, settings a batch size, and `PicturesToTime`."""

    device: Any
    settings: list[Any]
    pictures: Any


def run_latency(args: argparse.Namespace) -> dict[str, Any]:
    """Time checkpoints side by side."""
    from evaluation.model_table import TIMES, letter
    from evaluation.report import report

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
    extra = {"latency": rows, "sections": _SECTIONS, "pictures": str(_pictures(args))}
    return report(sys.argv, {}, files=files, **extra)


def timing_plan(args: argparse.Namespace, batch_sizes: Sequence[int]) -> TimingPlan:
    """Return how to time, without any checkpoint; so it can be refused before other work.

    Raises:
        ValueError: there is no such device, or a value is out of range.
    """
    from evaluation.latency import LatencySettings
    from lightning_modules.timing import device_named

    device = device_named(args.device)
    settings = [
        LatencySettings(size, args.warmup, args.pictures, args.precision, device)
        for size in batch_sizes
    ]
    return TimingPlan(device, settings, _pictures(args))


def time_checkpoints(args: argparse.Namespace, plan: TimingPlan) -> list[dict[str, Any]]:
    """Return a row a checkpoint and batch size; see `evaluation.latency.measure_latency`."""
    from evaluation.latency import measure_latency
    from lightning_modules.timing import threads, timed_models

    rows = []
    with threads(args.threads):
        models = timed_models(args.ckpt, plan.pictures, plan.device, inference_changes(args))
        for setting in plan.settings:
            tell = progress(f"passes of {setting.batch_size} picture(s) timed", 50)
            rows += measure_latency(models, setting, tell)
    return rows


def tell_latency(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print what the times depend on and what is in which."""
    row, *_ = rows
    notes = {one["note"] for one in rows if one["note"]}
    rounding = ", convolutions may round to TF32" if row["tf32"] else ""
    print(
        f"device: {row['device']}; {row['threads']} thread(s); {row['dtype']}{rounding}; "
        f"torch {row['torch']}"
    )
    for note in (_SECTIONS, *sorted(notes)):
        print(f"note: {note}")


def run_export(args: argparse.Namespace) -> dict[str, Any]:
    """Write the ONNX file of a checkpoint."""
    from evaluation.report import file_hash, report
    from lightning_modules.export import TOLERANCES, export_checkpoint

    target: Path = args.target
    done = export_checkpoint(args.ckpt, target, args.check)
    print(f"written: {target} ({done.size / 2**20:.1f} MiB)")
    if done.differences:
        lines = [
            (name, f"{v:.2g}", f"{TOLERANCES[name]:g}") for name, v in done.differences.items()
        ]
        title = f"largest difference between onnxruntime and PyTorch on {len(done.checked)} inputs"
        show(title, ["output", "difference", "allowed"], lines)
    else:
        print("note: outputs were not compared, because onnxruntime is not installed")
    extra = {"sha256": file_hash(target), "metadata": done.metadata, "checked": done.checked}
    return report(sys.argv, done.differences, files=[args.ckpt], **extra)


def _pictures(args: argparse.Namespace) -> Any:
    from lightning_modules.timing import PicturesToTime

    size = getattr(args, "size", None)
    return PicturesToTime(args.annotations, args.images, size, args.scale, args.bad_data)
