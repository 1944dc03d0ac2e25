"""Direction of logged metrics, as declared by the module that logs them."""

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


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
