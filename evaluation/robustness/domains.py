"""Scores on other data sets, the domains: cells ``domain:NAME`` of severity 0 (A797)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from evaluation.robustness.grid import METRICS, Grid, Place, metric_names
from evaluation.robustness.names import CLEAN, DOMAIN, domain_of
from evaluation.robustness.tables import Part, title_of

Scores = dict[str, dict[str, dict[str, float]]]  # model -> domain -> number by name


def domain_places(names: Iterable[str]) -> list[Place]:
    """Return the cells of some domains.

    >>> domain_places(["night"])
    [('domain:night', 0)]
    """
    return [(f"{DOMAIN}{name}", 0) for name in names]


def domain_scores(grids: Mapping[str, Grid]) -> Scores:
    """Return the scores on each domain, and their ratios to the scores on clean data.

    Args:
        grids: model -> cells.

    Returns:
        Model -> domain -> value by metric, and ``segm_map_ratio`` and so on: the value divided by
        the clean one, NaN where that is 0 or missing. Models without domains are left out.
    """
    found: Scores = {}
    for model, grid in grids.items():
        clean = grid.cells.get((CLEAN, 0), {})
        for (corruption, _), cell in grid.cells.items():
            name = domain_of(corruption)
            if name is not None:
                ratios = {
                    f"{key}_ratio": ratio(value, clean.get(key)) for key, value in cell.items()
                }
                found.setdefault(model, {})[name] = {**cell, **ratios}
    return found


def ratio(value: float, clean: float | None) -> float:
    """Return value / clean, NaN where clean is None or not positive."""
    return value / clean if clean is not None and clean > 0 else math.nan


def domain_tables(scores: Scores) -> list[Part]:
    """Return a table of the main metric of each task, with a row for each model and domain."""
    tables: list[Part] = []
    everything = [one for of_model in scores.values() for one in of_model.values()]
    for task in METRICS:
        names = [name for name in metric_names(task) if any(name in one for one in everything)]
        if names:
            metric = names[0]
            rows: list[list[Any]] = [
                [model, name, one.get(metric), one.get(f"{metric}_ratio")]
                for model, of_model in scores.items()
                for name, one in of_model.items()
            ]
            title = f"{title_of(metric)} on other data sets"
            tables.append((title, ["model", "domain", "value", "value / clean"], rows))
    return tables
