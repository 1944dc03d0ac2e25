"""Titles of figures of bags: the true target beside the predicted one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from callbacks.mil.bag_outputs import bag_name
from structures import BagBatch, MILOutput
from structures.tasks import TIME_TASKS, has_classes


def bag_titles(module: Any, outputs: MILOutput, batch: BagBatch) -> list[str]:
    """Return a title of two lines for each bag.

    Args:
        module: `MILModule`, whose labels are in the user's units.
        outputs: of the batch.
        batch: the bags.
    """
    labels = batch.labels.cpu().numpy()
    if has_classes(module.task):
        says = outputs.probabilities(module.task).detach().float().cpu().numpy()
        pairs = [_of_classes(labels[b], says[b], module.class_names) for b in range(len(batch))]
    elif module.task in TIME_TASKS:
        risk = outputs.risk(module.task).detach().cpu().tolist()
        pairs = [(_time(*labels[b]), f"risk = {risk[b]:.3g}") for b in range(len(batch))]
    else:
        says = module.predicted(outputs).cpu().numpy()
        pairs = [(_values(labels[b]), f"predicted: {_values(says[b])}") for b in range(len(batch))]
    return [
        f"bag {bag_name(batch, b)}\ntruth: {truth} · {answer}"
        for b, (truth, answer) in enumerate(pairs)
    ]


def _of_classes(
    label: Any, says: npt.NDArray[np.float32], names: tuple[str, ...]
) -> tuple[str, str]:
    present = np.flatnonzero(label) if np.ndim(label) == 1 else np.atleast_1d(label)
    truth = ", ".join(names[k] if 0 <= k < len(names) else str(k) for k in present) or "none"
    if says.ndim == 0:
        return truth, f"p({names[1] if names else 'positive'}) = {says:.3f}"
    best = int(says.argmax())
    return truth, f"predicted: {names[best] if names else best} {says[best]:.3f}"


def _time(time: float, event: float) -> str:
    if np.isnan(time) or np.isnan(event):
        return "unknown"
    return f"event at {time:g}" if event == 1 else f"censored at {time:g}"


def _values(values: npt.NDArray[np.float64]) -> str:
    return ", ".join("unknown" if np.isnan(value) else f"{value:.4g}" for value in values)
