"""How long a segmentation model takes for a picture, from file to run-length masks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch


def _clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def picture_latency(
    batches: Iterable[Any],
    predict: Callable[[Any], Any],
    warmup: int = 5,
    pictures: int = 50,
) -> dict[str, float]:
    """Time loading and prediction of single pictures.

    Args:
        batches: one picture a batch, loaded in this process while iterated; may be shorter than
            ``warmup + pictures``.
        predict: from a batch to predictions in the original frame.
        warmup: pictures not counted.
        pictures: pictures counted at most.

    Returns:
        Median and 95th percentile in milliseconds: ``load_ms``, ``predict_ms`` (network, NMS and
        masks to run lengths), ``total_ms`` and each with ``_p95``; ``pictures`` counted.

    Raises:
        ValueError: not one picture is left after the warm-up.
    """
    loads, predictions = [], []
    start = _clock()
    for number, batch in enumerate(batches):
        loaded = _clock()
        predict(batch)
        done = _clock()
        if number >= warmup:
            loads.append(loaded - start)
            predictions.append(done - loaded)
        if len(loads) == pictures:
            break
        start = _clock()
    if not loads:
        raise ValueError(f"latency needs more than {warmup} pictures")
    columns = {"load": np.array(loads), "predict": np.array(predictions)}
    columns["total"] = columns["load"] + columns["predict"]
    result: dict[str, float] = {"pictures": float(len(loads))}
    for name, seconds in columns.items():
        result[f"{name}_ms"] = float(np.median(seconds) * 1000)
        result[f"{name}_ms_p95"] = float(np.percentile(seconds, 95) * 1000)
    return result
