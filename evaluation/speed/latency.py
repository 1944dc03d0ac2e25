"""How long segmentation models take for an image, from file to run-length masks, part by part.

Every batch is a pass of four sections, between which the clock is read after the device has done
all it was given:

    load      reading and decoding the file, resizing, padding, copying to the device
    network   `network_outputs`: normalising and every learned layer
    post      `instances`: suppression, masks at the size of the original image, run lengths
    total     the sum of the three

Models are measured in turn, a batch each, so that a machine that slows down or is disturbed does so
for all of them; the first passes of each are not counted, and every file has been read once before
it is timed, so it is in the system's cache. The protocol follows what a comparison of
Sapkota, Ahmed, Karkee 2024 (arXiv 2312.07935) leaves unsaid (A250).
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.speed.memory import peak_memory

SECTIONS = ("load", "network", "post")
_MEMORY_PASSES = 3


@dataclass(frozen=True, slots=True)
class TimedModel:
    """What is called of a model.

    Attributes:
        name: for the table.
        images: how many different ones there are; passes begin anew after the last.
        load: from the numbers of images to their batch on the device.
        network: from the batch to the raw outputs.
        post: from these and the batch to a list of predictions, one an image.
        parameters: number of weights.
        weight_bytes: of weights and buffers.
        note: what a reader of its row has to know.
    """

    name: str
    images: int
    load: Callable[[Sequence[int]], Any]
    network: Callable[[Any], Any]
    post: Callable[[Any, Any], Sequence[Any]]
    parameters: int = 0
    weight_bytes: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class LatencySettings:
    """How to measure.

    Attributes:
        batch_size: images a pass.
        warmup: images before the first that count, rounded up to whole batches.
        images: images that count, likewise.
        precision: as Lightning's: ``32-true``, ``16-mixed`` or ``bf16-mixed``.
        device: where networks and batches are.

    Raises:
        ValueError: a number is out of range, or the precision is another.
    """

    batch_size: int = 1
    warmup: int = 50
    images: int = 200
    precision: str = "32-true"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.images < 1 or self.warmup < 0:
            raise ValueError(
                "latency needs at least one image and batches of at least one, got "
                f"{self.images} and {self.batch_size}, warm-up {self.warmup}"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, got {self.precision!r}")


PRECISIONS: dict[str, torch.dtype | None] = {
    "32-true": None,
    "16-mixed": torch.float16,
    "bf16-mixed": torch.bfloat16,
}


def measure_latency(
    models: Sequence[TimedModel],
    settings: LatencySettings,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """Time models side by side.

    Args:
        models: in the order of the rows.
        settings: how.
        progress: told the passes that are done and how many there are.
        clock: seconds.

    Returns:
        A row a model: ``model``, ``batch_size``, ``pictures`` that were counted; median and 95th
        percentile over batches in milliseconds an image, ``load_ms``, ``load_ms_p95`` and so on
        for every section and ``total``; ``pictures_per_second`` from the median; ``detections``,
        the mean an image; ``parameters``; ``peak_memory_mib``, weights and what a pass adds at
        most; the entries of `machine`; and the model's ``note``.

    Raises:
        ValueError: a model has no image.
    """
    for model in models:
        if model.images < 1:
            raise ValueError(f"{model.name}: latency needs at least one image")
    skipped = math.ceil(settings.warmup / settings.batch_size)
    counted = math.ceil(settings.images / settings.batch_size)
    seconds: list[list[tuple[float, ...]]] = [[] for _ in models]
    detections = [0] * len(models)
    with torch.inference_mode(), _autocast(settings):
        for number in range(skipped + counted):
            for model in models:  # so that nobody finds files that only others have in the cache
                model.load(_numbers(model, number, settings.batch_size))
            for m, model in enumerate(models):
                parts, found = _timed_pass(model, number, settings, clock)
                if number >= skipped:
                    seconds[m].append(parts)
                    detections[m] += found
            if progress is not None:
                progress(number + 1, skipped + counted)
        memory = [_peak_mib(model, settings) for model in models]
    about = machine(settings)
    return [
        {
            "model": model.name,
            "batch_size": settings.batch_size,
            "pictures": counted * settings.batch_size,
            **_statistics(np.array(seconds[m]) / settings.batch_size),
            "detections": detections[m] / (counted * settings.batch_size),
            "parameters": model.parameters,
            "peak_memory_mib": memory[m],
            **about,
            "note": model.note,
        }
        for m, model in enumerate(models)
    ]


def machine(settings: LatencySettings) -> dict[str, Any]:
    """Return what the numbers depend on beside the model.

    Returns:
        ``device``, the processor's name; ``threads`` of torch; ``dtype`` of the networks'
        arithmetic; ``tf32`` whether the GPU may round convolutions to it; ``torch``.
    """
    cuda = settings.device.type == "cuda"
    low = PRECISIONS[settings.precision]
    return {
        "device": torch.cuda.get_device_name(settings.device) if cuda else processor_name(),
        "threads": torch.get_num_threads(),
        "dtype": "float32" if low is None else f"{str(low).removeprefix('torch.')} (autocast)",
        "tf32": bool(cuda and low is None and torch.backends.cudnn.allow_tf32),
        "torch": str(torch.__version__),
    }


def processor_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the CPU, as far as the system tells it."""
    if info.is_file():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def _autocast(settings: LatencySettings) -> AbstractContextManager[Any]:
    low = PRECISIONS[settings.precision]
    return nullcontext() if low is None else torch.autocast(settings.device.type, dtype=low)


def _now(settings: LatencySettings, clock: Callable[[], float]) -> float:
    if settings.device.type == "cuda":  # kernels run after the call that started them
        torch.cuda.synchronize(settings.device)
    return clock()


def _numbers(model: TimedModel, number: int, batch_size: int) -> list[int]:
    return [(number * batch_size + i) % model.images for i in range(batch_size)]


def _timed_pass(
    model: TimedModel, number: int, settings: LatencySettings, clock: Callable[[], float]
) -> tuple[tuple[float, ...], int]:
    """Return the seconds of every section and the number of detections."""
    chosen = _numbers(model, number, settings.batch_size)
    start = _now(settings, clock)
    batch = model.load(chosen)
    loaded = _now(settings, clock)
    outputs = model.network(batch)
    computed = _now(settings, clock)
    found = model.post(outputs, batch)
    done = _now(settings, clock)
    return (loaded - start, computed - loaded, done - computed), sum(map(len, found))


def _peak_mib(model: TimedModel, settings: LatencySettings) -> float | None:
    """Return weights and the most that passes add to them (A251)."""

    def one_pass(number: int) -> None:
        batch = model.load(_numbers(model, number, settings.batch_size))
        model.post(model.network(batch), batch)

    rises = [
        peak_memory(lambda number=number: one_pass(number), settings.device)  # type: ignore[misc]
        for number in range(_MEMORY_PASSES)
    ]
    known = [rise for rise in rises if rise is not None]
    return model.weight_bytes / 2**20 + max(known) if known else None


def _statistics(seconds: Any) -> dict[str, float]:
    """Turn (batches, 3) seconds an image into medians and 95th percentiles in milliseconds."""
    columns = dict(zip(SECTIONS, seconds.T * 1000, strict=True))
    columns["total"] = seconds.sum(axis=1) * 1000
    result: dict[str, float] = {}
    for name, values in columns.items():
        result[f"{name}_ms"] = float(np.median(values))
        result[f"{name}_ms_p95"] = float(np.percentile(values, 95))
    total = result["total_ms"]
    result["pictures_per_second"] = 1000 / total if total > 0 else math.inf
    return result
