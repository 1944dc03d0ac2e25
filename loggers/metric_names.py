"""Which value of a logged metric is its best, as the module that logs it declares."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal


def best_of(name: str, module: object) -> Literal["max", "min"] | None:
    """Return which value of a metric is its best; None where that means nothing.

    >>> class Module:
    ...     metric_names = ("val/segm_map", "val/loss", "val/loss_*")
    ...     lower_is_better = ("val/loss", "val/loss_*")
    >>> [best_of(name, Module) for name in ("val/segm_map", "val/loss_mask", "lr-AdamW")]
    ['max', 'min', None]

    Args:
        name: under which it is logged.
        module: LightningModule, or its class. Its ``metric_names`` are what has a best value, its
            ``lower_is_better`` those of them of which less is better, both with wildcards.
    """
    if _is_one_of(name, getattr(module, "lower_is_better", ())):
        return "min"
    return "max" if _is_one_of(name, getattr(module, "metric_names", ())) else None


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
