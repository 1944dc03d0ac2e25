"""Coding of times and values: models see coded labels, users their own units.

    discrete_time   a time t becomes its bin, the number of inner edges e_1 .. e_(K-1) up to t;
                    e_0 = 0, e_k the k/K quantile of the event times, e_K the largest time
    regression      a value y becomes (y - mean) / deviation, both of the known values

Everything is fitted on training bags alone. Risk of ``cox`` needs the order of times only, and
grades of ``ordinal`` are numbers already, so their labels are their own codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from structures.tasks import TIME_TASKS, MILTask

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TargetCoding:
    """Coding of the labels of one training.

    Attributes:
        task: what the labels are.
        edges: e_0 .. e_K of ``discrete_time`` in the user's unit, increasing; else empty.
        mean: of each target of ``regression``; else empty.
        deviation: of each target, with denominator n (A740); else empty.
    """

    task: MILTask
    edges: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @classmethod
    def fit(
        cls,
        task: MILTask,
        labels: npt.ArrayLike,
        num_classes: int,
        *,
        names: Sequence[str] = (),
        bins_option: str = "time_bins",
    ) -> TargetCoding:
        """Fit the coding on the labels of training bags.

        Args:
            task: what the labels are.
            labels: (n, 2) times and events, (n, T) values with NaN where unknown, or (n,) classes.
            num_classes: K bins of ``discrete_time``, T targets of ``regression``.
            names: names of the targets, for messages.
            bins_option: name of the option that sets K, for messages.

        Raises:
            ValueError: there is no event, two edges are equal, or the known values of a target are
                missing or all the same.
        """
        array = np.asarray(labels, dtype=np.float64)
        if task in TIME_TASKS and not (array.ndim == 2 and (array[:, 1] == 1).any()):
            raise ValueError(
                f"none of the {len(array)} training bags has an event, so that there is nothing to "
                "learn from; censored bags alone tell no order. Check the column of the events, or "
                "train on more bags"
            )
        if task == "discrete_time":
            return cls(task, edges=_edges(array, num_classes, bins_option))
        if task == "regression":
            mean, deviation = _moments(array, names)
            return cls(task, mean=mean, deviation=deviation)
        return cls(task)

    def coded(self, labels: Tensor) -> Tensor:
        """Return labels as models see them, of the same shape and dtype.

        Args:
            labels: (B, 2) times and events, (B, T) values, or classes.

        Returns:
            The number of the bin in place of the time, values of mean 0 and deviation 1, or the
            labels themselves.
        """
        if self.task == "discrete_time":
            inner = torch.tensor(self.edges[1:-1], dtype=labels.dtype, device=labels.device)
            bins = torch.bucketize(labels[:, 0].contiguous(), inner, right=True)
            return torch.stack([bins.to(labels.dtype), labels[:, 1]], dim=1)
        if self.task == "regression":
            mean, deviation = (labels.new_tensor(v) for v in (self.mean, self.deviation))
            return (labels - mean) / deviation
        return labels

    def decoded(self, values: npt.ArrayLike) -> FloatArray:
        """Return predicted values (n, T) in the user's units, float64.

        >>> coding = TargetCoding.fit("regression", [[1.0], [5.0]], 1)
        >>> coding.decoded([[0.0], [1.5]]).tolist()
        [[3.0], [6.0]]
        """
        decoded: FloatArray = np.asarray(values, dtype=np.float64) * self.deviation + self.mean
        return decoded

    def plain(self) -> dict[str, Any]:
        """Return the coding in plain containers, for a checkpoint; see `from_plain`."""
        found = {"edges": list(self.edges), "mean": list(self.mean)}
        return {"task": self.task, **found, "deviation": list(self.deviation)}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> TargetCoding:
        """Return the coding that `plain` has written.

        Raises:
            KeyError: a field is missing.
        """
        edges, mean, deviation = (
            tuple(float(v) for v in content[name]) for name in ("edges", "mean", "deviation")
        )
        return cls(content["task"], edges, mean, deviation)


def _edges(labels: FloatArray, bins: int, option: str) -> tuple[float, ...]:
    """Return e_0 .. e_K for times and events (n, 2)."""
    if bins < 1:
        raise ValueError(f"{option} must be at least 1, got {bins}")
    times, events = labels[:, 0], labels[:, 1] == 1
    quantiles = np.quantile(times[events], np.arange(1, bins) / bins)
    edges = np.array([0.0, *quantiles, times.max()])
    equal = np.flatnonzero(np.diff(edges) <= 0)
    if equal.size:  # A741
        raise ValueError(
            f"{option}: {bins} bins of the times of {int(events.sum())} events have equal edges "
            f"(twice {edges[equal[0]]:g}); ask for fewer bins"
        )
    return tuple(edges.tolist())


def _moments(
    labels: FloatArray, names: Sequence[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the known values of each target (n, T)."""
    means, deviations = [], []
    for column, values in enumerate(labels.T):
        known = values[np.isfinite(values)]
        name = names[column] if names else f"number {column}"
        if known.size == 0 or known.min() == known.max():
            what = f"only the value {known[0]:g}" if known.size else "no known value"
            raise ValueError(
                f"target {name} has {what} in the training bags; leave it out or add bags"
            )
        means.append(float(known.mean()))
        deviations.append(float(known.std()))  # A740
    return tuple(means), tuple(deviations)
