"""Latency of segmentation models per image, from file to run-length masks, by section.

Every batch is a pass of three sections; the clock is read between them after the device has
finished all its work:

    load      reading and decoding the file, resizing, padding, copying to the device
    network   `network_outputs`: normalisation and every learned layer
    post      `instances`: suppression, masks at the size of the original image, run lengths
    total     the sum of the three

Models are measured in turn, one batch each, so that a slowdown of the machine affects all of them.
The first passes of each model are not counted, and every file is read once before it is timed, so
that it is in the cache of the system. The protocol fills in details that the comparison of
Sapkota, Ahmed, Karkee 2024 (arXiv 2312.07935) does not specify (A250).
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
    """The functions of a model that are timed.

    Attributes:
        name: name of the model in the table.
        images: number of different images; after the last one, passes start from the first again.
        load: function from the indices of images to their batch on the device.
        network: function from the batch to the raw outputs.
        post: function from raw outputs and batch to a list of predictions, one per image.
        parameters: number of parameters.
        weight_bytes: bytes of parameters and buffers.
        note: remark on the model for the reader of the table.
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
    """Settings of a latency measurement.

    Attributes:
        batch_size: images per pass.
        warmup: images that are not counted at the start, rounded up to whole batches.
        images: images that are counted, rounded up to whole batches.
        precision: ``32-true``, ``16-mixed`` or ``bf16-mixed``, as in Lightning.
        device: device of the networks and batches.

    Raises:
        ValueError: a number is out of range, or the precision is unknown.
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
    """Measure the latency of models.

    Args:
        models: models in the order of the rows.
        settings: settings of the measurement.
        progress: called with the number of finished passes and the number of all passes.
        clock: function that returns the time in seconds.

    Returns:
        One row per model: ``model``, ``batch_size``, ``pictures`` that were counted; median and
        95th percentile over batches in milliseconds per image, ``load_ms``, ``load_ms_p95`` and so
        on for every section and ``total``; ``pictures_per_second`` from the median;
        ``detections``, the mean per image; ``parameters``; ``peak_memory_mib``, weights plus the
        largest rise in a pass; the entries of `machine`; and the ``note`` of the model.

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
            for model in models:  # all models find the files in the cache
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
    """Return the properties of the machine that affect the numbers.

    Returns:
        ``device``, name of the processor; ``threads`` of torch; ``dtype`` of the arithmetic of the
        networks; ``tf32``, whether the GPU may use it for convolutions; version of ``torch``.
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
    """Return the name of the CPU, if the system provides it."""
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
    """Return the size of the weights plus the largest rise of memory in a pass (A251)."""

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
    """Turn (batches, 3) seconds per image into medians and 95th percentiles in milliseconds."""
    columns = dict(zip(SECTIONS, seconds.T * 1000, strict=True))
    columns["total"] = seconds.sum(axis=1) * 1000
    result: dict[str, float] = {}
    for name, values in columns.items():
        result[f"{name}_ms"] = float(np.median(values))
        result[f"{name}_ms_p95"] = float(np.percentile(values, 95))
    total = result["total_ms"]
    result["pictures_per_second"] = 1000 / total if total > 0 else math.inf
    return result
