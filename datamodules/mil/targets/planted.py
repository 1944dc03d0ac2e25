"""Targets planted in bags of digits: times, values and grades that follow the share of a digit.

Every bag has a share x of the digit, from 0 to 1. From it and from noise of its own it gets

    times       t = 40 (e / h)^(1/4), log h = 16 (x - 1/2), e standard exponential: a Weibull time
                of shape 4 and log-hazard log h. It is censored at a uniform time up to 180; about a
                third of the bags are, and the oracle, which ranks by x, has C = .94
    values      ``share`` = 100 x + noise of deviation 5, in percent; ``rest`` = 1 - x + noise of
                deviation .05, unknown in every tenth bag
    grades      0 to 3 for shares below 1/4, 1/2, 3/4 and above
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from structures.tasks import TIME_TASKS

PlantedTask = Literal["binary", "cox", "discrete_time", "regression", "ordinal"]

TARGETS = ("share", "rest")
GRADES = ("below 1/4", "1/4 to 1/2", "1/2 to 3/4", "above 3/4")
_SCALE, _SLOPE, _SHAPE, _LAST = 40.0, 16.0, 4.0, 180.0


def output_count(task: PlantedTask, time_bins: int) -> int:
    """Return ``num_classes`` of a task."""
    counts = {"cox": 1, "discrete_time": time_bins, "regression": len(TARGETS)}
    return counts.get(task, len(GRADES) if task == "ordinal" else 2)


def names_of(task: PlantedTask) -> tuple[list[str], Sequence[str]]:
    """Return the names of the grades and those of the values, each empty for other tasks."""
    return list(GRADES) if task == "ordinal" else [], TARGETS if task == "regression" else ()


def planted_label(task: PlantedTask, share: float, index: int, rng: np.random.Generator) -> Tensor:
    """Return the label of one bag: (1, 2) or (1, T) float64, or (1,) int64.

    Times have one decimal, so that some are equal.

    Args:
        task: kind of the targets that are planted.
        share: share of the digit in the bag, in [0, 1].
        index: number of the bag.
        rng: source of the noise; every task draws alike.
    """
    if task in TIME_TASKS:
        time = _SCALE * (rng.exponential() / np.exp(_SLOPE * (share - 0.5))) ** (1 / _SHAPE)
        last = rng.uniform(0, _LAST)
        found = [max(round(min(time, last), 1), 0.1), float(time <= last)]
        return torch.tensor([found], dtype=torch.float64)
    if task == "regression":
        noise: npt.NDArray[np.float64] = rng.normal(size=2)
        rest = float("nan") if index % 10 == 9 else 1 - share + 0.05 * noise[1]
        return torch.tensor([[100 * share + 5 * noise[0], rest]], dtype=torch.float64)
    return torch.tensor([min(int(share * len(GRADES)), len(GRADES) - 1)])
