"""Direction of logged metrics and choice of the monitored one, as declared by the module."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal


def best_of(name: str, module: object) -> Literal["max", "min"] | None:
    """Return whether the largest or smallest value of a metric is the best; None if neither.

    >>> class Module:
    ...     metric_names = ("val/segm_map", "val/loss", "val/loss_*")
    ...     lower_is_better = ("val/loss", "val/loss_*")
    >>> [best_of(name, Module) for name in ("val/segm_map", "val/loss_mask", "lr-AdamW")]
    ['max', 'min', None]

    Args:
        name: name under which the metric is logged.
        module: LightningModule, or its class. ``metric_names`` lists the metrics that have a best
            value, ``lower_is_better`` those with a smallest best value, both with wildcards.
    """
    if _is_one_of(name, getattr(module, "lower_is_better", ())):
        return "min"
    return "max" if _is_one_of(name, getattr(module, "metric_names", ())) else None


def followed(name: str, module: object) -> tuple[str, str]:
    """Return the metric by which checkpoints of a training are chosen, and why it is another.

    Args:
        name: the monitored metric.
        module: LightningModule; ``undefined(name)`` says why a metric has no value on its
            validation data (or is empty), ``loss_metric`` names the loss to take instead.

    Returns:
        The metric, and the reason if it is not ``name``, else an empty text.
    """
    undefined, loss = getattr(module, "undefined", None), getattr(module, "loss_metric", None)
    reason = "" if undefined is None or loss is None else undefined(name)
    return (str(loss), str(reason)) if reason else (name, "")


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
