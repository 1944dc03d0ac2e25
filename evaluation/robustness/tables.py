"""Tables of a robustness summary for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.report.model_table import letter
from evaluation.robustness.grid import METRICS, Grid
from evaluation.robustness.names import BENCHMARK, EXTRA, GROUPS
from evaluation.robustness.scores import Summary, corruptions_of, main_metric, tasks_of

_WORDS = {
    "segm_map": "mask AP", "box_map": "box AP", "bag_auroc": "AUROC of bags",
    "segm_cd": "CD of masks", "box_cd": "CD of boxes", "bag_cd": "CD of bags",
}  # fmt: skip
_COLUMNS = 7  # of numbers of models in a table
_WIDTH = 24  # characters of all names of models up to which they are columns

Part = tuple[str, list[str], list[list[Any]]]  # title, columns, rows


def tables(summary: Summary, grids: Mapping[str, Grid], reference: str | None = None) -> list[Part]:
    """Return the tables of each task: one of models and one of corruptions, with its main metric.

    Args:
        summary: what the cells say.
        grids: model -> cells.
        reference: the model of CD and rCD, or None.
    """
    short = short_names(list(grids))
    found: list[Part] = []
    for task, models in models_by_task(grids).items():
        metric = str(main_metric(grids, task))
        columns = {"clean": f"{metric}_clean", "mPC": f"{metric}_mpc", "rPC": f"{metric}_rpc"}
        if any(f"{metric}_mpc_all" in summary.metrics[model] for model in models):
            columns["mPC of 19"] = f"{metric}_mpc_all"
        if reference is not None:
            columns |= {"mCD": f"{task}_mcd", "rCD": f"{task}_rcd"}
        rows = [
            [_told(model, short), *(summary.metrics[model].get(key) for key in columns.values())]
            for model in models
        ]
        found.append((_title(metric, reference), ["model", *columns], rows))
        shown = [(model, metric, short[model]) for model in models]
        ratios = [(m, f"{task}_cd", f"CD {short[m]}") for m in models if m != reference]
        ratios = [] if reference is None else ratios
        together = len(shown) + len(ratios) <= _COLUMNS
        for part in [[*shown, *ratios]] if together else [shown, ratios]:
            for start in range(0, len(part), _COLUMNS):
                columns_ = part[start : start + _COLUMNS]
                found += _by_corruption(summary, task, columns_, ordered(grids, task))
    return found


def _title(metric: str, reference: str | None) -> str:
    under = "shifts" if _change(metric) == "shift" else "corruption"
    title = f"{title_of(metric)}: mPC under {under}, rPC = mPC / clean"
    return title + (f", CD against {reference}" if reference else "")


def _by_corruption(
    summary: Summary,
    task: str,
    shown: Sequence[tuple[str, str, str]],
    corruptions: Sequence[str],
) -> list[Part]:
    """Return a table with a column for each (model, number, title), or none without any value."""
    rows: list[list[Any]] = []
    for name in corruptions:
        group = [] if task == "bag" else [group_of(name)]
        values = [summary.corruptions[m].get(name, {}).get(key, math.nan) for m, key, _ in shown]
        rows += [[name, *group, *values]] * (not all(map(math.isnan, values)))
    first = shown[0][1]
    change = _change(first)
    title = f"{title_of(first)} by {change}"
    title += "" if first.endswith("_cd") else ", mean over severities 1 to 5"
    header = [change, *["group"] * (task != "bag"), *(title for *_, title in shown)]
    return [(title, header, rows)] if rows else []


def _change(metric: str) -> str:
    """Return what is done to the data in a cell: bags are shifted."""
    return "shift" if metric.startswith("bag_") else "corruption"


def title_of(metric: str) -> str:
    """Return a metric in words.

    >>> title_of("segm_map"), title_of("bag_c_index")
    ('mask AP', 'bag c index')
    """
    return _WORDS.get(metric, metric.replace("_", " "))


def group_of(corruption: str) -> str:
    """Return the group of a corruption; ``own`` for names that the benchmark does not have."""
    if corruption in EXTRA:
        return "extra"
    return next((group for group, names in GROUPS.items() if corruption in names), "own")


def ordered(grids: Mapping[str, Grid], task: str) -> list[str]:
    """Return all corruptions of some models, in the order of the benchmark, own ones last."""
    found = dict.fromkeys(name for grid in grids.values() for name in corruptions_of(grid, task))
    known = (*BENCHMARK, *EXTRA)
    return [*(n for n in known if n in found), *(n for n in found if n not in known)]


def models_by_task(grids: Mapping[str, Grid]) -> dict[str, list[str]]:
    """Return the models that have values of each task; tasks without any are left out."""
    found = {task: [m for m, grid in grids.items() if task in tasks_of(grid)] for task in METRICS}
    return {task: models for task, models in found.items() if models}


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Return the column of each model: its name, or a letter if all names are too wide.

    >>> short_names(["a", "b"]), short_names(["x" * 40, "y" * 40]).values()
    ({'a': 'a', 'b': 'b'}, dict_values(['A', 'B']))
    """
    wide = len(models) > 1 and sum(map(len, models)) > _WIDTH
    return {model: letter(n) if wide else model for n, model in enumerate(models)}


def _told(model: str, short: Mapping[str, str]) -> str:
    return model if short[model] == model else f"{short[model]}: {model}"


def number(value: float | None, decimals: int = 2) -> str:
    """Return a value as it is drawn, without the zero before its point.

    >>> number(0.342), number(1.0), number(-0.05, 3), number(float("nan"))
    ('.34', '1.00', '-.050', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    text = f"{value:.{decimals}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text
