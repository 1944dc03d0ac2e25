"""Whether anything can be learnt from times and values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.mil.targets.options import TargetOptions
from structures import TargetCoding


def useless_targets(
    labels: npt.NDArray[np.float64], options: TargetOptions
) -> Iterator[tuple[str, str]]:
    """Yield reason and remedy if nothing can be learnt from the targets of all bags.

    Args:
        labels: (B, 2) time and event, or (B, T) values.
        options: columns and kind of the targets.
    """
    if options.has_times:
        if not (labels[:, 1] == 1).any():
            remedy = f"check the column {options.columns[1]}; censored times alone tell no order"
            if options.censorship_column is not None:
                remedy += " (in a censorship_column, 1 is a censored time)"
            yield f"none of the {len(labels)} bags has an event", remedy
        return
    for name, values in zip(options.columns, labels.T, strict=True):
        known = values[np.isfinite(values)]
        if not known.size or known.min() == known.max():
            what = f"only the value {known[0]:g}" if known.size else "no known value"
            yield f"target {name} has {what}", "leave it out of target_columns or add bags"


def check_training_targets(
    path: Path, labels: npt.NDArray[Any], options: TargetOptions, where: str = ""
) -> None:
    """Check that times or values of the training bags can be coded, before work starts.

    Args:
        path: the file, for messages.
        labels: those of the training bags.
        options: columns and kind of the targets.
        where: a fold, for messages.

    Raises:
        ValueError: there is no event, a value is constant, or bins have equal edges.
    """
    if not (options.apply and options.labels_needed and len(labels)) or options.task is None:
        return
    try:
        TargetCoding.fit(options.task, labels, options.num_classes, names=options.columns)
    except ValueError as error:
        raise ValueError(f"{path}: {where}{error}") from None
