"""Tables and charts as native W&B objects, which its web pages can sort, filter and compare.

None of them needs pandas, which W&B's own curve functions require.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loggers.wandb_media import Media

Points = tuple[npt.NDArray[Any], npt.NDArray[Any]]
MAX_POINTS = 200  # per curve
MAX_LINES = 20  # per chart


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """Return a `wandb.Table`; NaN becomes an empty cell and a `Media` becomes an image."""
    import wandb

    return wandb.Table(
        columns=list(columns), data=[[_cell(value) for value in row] for row in rows]
    )


def records_table(records: Sequence[Mapping[str, Any]]) -> Any:
    """Return a table from dictionaries with equal keys."""
    return table(list(records[0]), [list(record.values()) for record in records])


def line_chart(curves: Mapping[str, Points], title: str, xname: str) -> Any:
    """Return a chart of curves (x, y) by name; long curves are thinned and keep their ends."""
    import wandb

    shown = dict(list(curves.items())[:MAX_LINES])
    thin = {name: _thinned(x, y) for name, (x, y) in shown.items()}
    return wandb.plot.line_series(
        xs=[x for x, _ in thin.values()],
        ys=[y for _, y in thin.values()],
        keys=list(thin),
        title=title,
        xname=xname,
    )


def confusion_chart(matrix: npt.NDArray[Any], class_names: Sequence[str], title: str) -> Any:
    """Return W&B's confusion matrix; rows of ``matrix`` are the true classes."""
    import wandb

    rows = [
        [true, predicted, int(matrix[i, j])]
        for i, true in enumerate(class_names)
        for j, predicted in enumerate(class_names)
    ]
    columns: list[Any] = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=columns, data=rows),
        {name: name for name in columns},
        {"title": title},
    )


def _cell(value: Any) -> Any:
    if isinstance(value, Media):
        return value.as_image()
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _thinned(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[list[float], list[float]]:
    """Return at most ``MAX_POINTS`` points, evenly spread over the indices of the curve."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).round().astype(int))
    return x[chosen].astype(float).tolist(), y[chosen].astype(float).tolist()
