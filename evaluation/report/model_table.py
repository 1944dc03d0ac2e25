"""Table with one row per model: detection at a confidence, average precision, size and latency.

The comparison of one-stage and two-stage segmentors in orchards (Sapkota, Ahmed, Karkee 2024,
arXiv 2312.07935) reports precision and recall at confidence 0.5 and milliseconds per image. These
rows report the same for any models on any COCO data set, with the same evaluator and clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

AP_COLUMNS = ("segm_map", "segm_map_50", "segm_map_75", "box_map", "box_map_50", "box_map_75")
TIMES = ("load", "network", "post", "total")
_SHOWN = {
    "mean_precision": "P", "mean_recall": "R", "mean_f1": "F1",
    "micro_precision": "micro P", "micro_recall": "micro R", "micro_f1": "micro F1",
    "segm_map": "mask AP", "segm_map_50": "mask AP50", "box_map": "box AP",
}  # fmt: skip
_LATENCY_KEYS = (
    *(f"{time}_ms{end}" for time in TIMES for end in ("", "_p95")),
    "pictures_per_second", "detections", "peak_memory_mib", "device", "threads", "dtype",
)  # fmt: skip


def model_row(
    model: str,
    dataset: str,
    point: Mapping[str, Any],
    average_precision: Mapping[str, float],
    max_dets: int,
    parameters: int | None = None,
    latency: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the row of (model, dataset, confidence).

    Args:
        model: name of the model.
        dataset: name of the data set.
        point: `OperatingPoint.summary`.
        average_precision: COCO metrics; AP by area and AR are left out.
        max_dets: cap on detections per image and class of the COCO metrics.
        parameters: number of parameters, or None.
        latency: the model's row of `measure_latency`, or None.

    Returns:
        ``model``, ``dataset``, ``pictures``, ``confidence``, ``iou``, ``iou_type``; the six rates,
        each with ``_low`` and ``_high`` of its 95 % interval; AP of masks and boxes;
        ``parameters``; and the times. Unknown values are None.
    """
    low_high = point["intervals_95"]
    rates: dict[str, float] = {}
    for name, value in point["metrics"].items():
        rates |= {name: value, f"{name}_low": low_high[name][0], f"{name}_high": low_high[name][1]}
    timed = latency or {}
    return {
        "model": model,
        "dataset": dataset,
        "pictures": point["num_images"],
        "confidence": point["score"],
        "iou": point["iou"],
        "iou_type": point["iou_type"],
        **rates,
        **{name: average_precision.get(name) for name in AP_COLUMNS},
        "ap_max_dets": max_dets,
        "parameters": parameters,
        **{name: timed.get(name) for name in _LATENCY_KEYS},
    }


def shown_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Return column names and cells of the printed table; models are named A, B, ...

    Columns without any value are left out. Times are medians, with the 95th percentile in
    brackets.
    """
    columns: list[tuple[str, list[Any]]] = [("model", [letter(n) for n in range(len(rows))])]
    for key, title in _SHOWN.items():
        columns.append((title, [_number(row[key]) for row in rows]))
    columns.append(("weights", [_millions(row["parameters"]) for row in rows]))
    for time in TIMES:
        key = f"{time}_ms"
        columns.append((f"{time} ms", [_time(row[key], row[f"{key}_p95"]) for row in rows]))
    known = [(title, cells) for title, cells in columns if any(c is not None for c in cells)]
    return [title for title, _ in known], [
        list(r) for r in zip(*(c for _, c in known), strict=True)
    ]


def letter(number: int) -> str:
    """Return A, B, ..., Z, A1, B1, ... for 0, 1, ...

    >>> letter(0), letter(27)
    ('A', 'B1')
    """
    turn, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(turn) if turn else "")


def _number(value: float | None) -> str | None:
    return None if value is None else "-" if math.isnan(value) else f"{value:.3f}"


def _millions(value: int | None) -> str | None:
    return None if value is None else f"{value / 1e6:.2f}M"


def _time(median: float | None, p95: float | None) -> str | None:
    return None if median is None or p95 is None else f"{median:.1f} ({p95:.1f})"
