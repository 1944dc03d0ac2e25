"""Timing of checkpoints, shared by `latency` and `operating-point`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from commands._arguments import inference_changes
from commands._tables import progress

SECTIONS = (
    "load: reading, decoding, resizing, padding and copying to the device; network: normalising "
    "and every learned layer, of two-stage models with the suppression between them; post: "
    "suppression of one-stage models, masks at the size of the original images, and their "
    "run-length encoding"
)


class TimingPlan(NamedTuple):
    """Timing settings: the device, one `LatencySettings` per batch size, and `ImagesToTime`."""

    device: Any
    settings: list[Any]
    images: Any


def timing_plan(args: argparse.Namespace, batch_sizes: Sequence[int]) -> TimingPlan:
    """Return the timing settings; no checkpoint is read, so that wrong settings fail early.

    Raises:
        ValueError: the device is not available, or a value is out of range.
    """
    from engine.deploy.timing import device_named
    from evaluation.speed.latency import LatencySettings

    device = device_named(args.device)
    settings = [
        LatencySettings(size, args.warmup, args.pictures, args.precision, device)
        for size in batch_sizes
    ]
    return TimingPlan(device, settings, _images(args))


def time_checkpoints(args: argparse.Namespace, plan: TimingPlan) -> list[dict[str, Any]]:
    """Return one row per checkpoint and batch size, see `evaluation.speed.latency`."""
    from engine.deploy.timing import threads, timed_models
    from evaluation.speed.latency import measure_latency

    rows = []
    with threads(args.threads):
        models = timed_models(args.ckpt, plan.images, plan.device, inference_changes(args))
        for setting in plan.settings:
            report = progress(f"passes of {setting.batch_size} image(s) timed", 50)
            rows += measure_latency(models, setting, report)
    return rows


def print_latency_notes(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print the device and settings of the times and what each time includes."""
    row, *_ = rows
    notes = {one["note"] for one in rows if one["note"]}
    rounding = ", convolutions may round to TF32" if row["tf32"] else ""
    print(
        f"device: {row['device']}; {row['threads']} thread(s); {row['dtype']}{rounding}; "
        f"torch {row['torch']}"
    )
    for note in (SECTIONS, *sorted(notes)):
        print(f"note: {note}")


def _images(args: argparse.Namespace) -> Any:
    from engine.deploy.timing import ImagesToTime

    size = getattr(args, "size", None)
    return ImagesToTime(args.annotations, args.images, size, args.scale, args.bad_data)
