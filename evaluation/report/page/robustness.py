"""Heat maps of scores under corruptions of images or shifts of bags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.report.page.content import Matrix
from evaluation.robustness.grid import METRICS, Grid, metric_names
from evaluation.robustness.names import CLEAN, SEVERITIES, is_graded

_LABELS = {"segm": "Mask", "box": "Box", "bag": ""}


def robustness_matrices(grids: Mapping[str, Grid]) -> tuple[Matrix, ...]:
    """Return one matrix for each model and task: the task's first metric by corruption.

    Args:
        grids: cells by model, see `evaluation.robustness.grid.read_grids`.
    """
    found = []
    for model, grid in grids.items():
        names = dict.fromkeys(name for name, _ in grid.cells)
        corruptions = [name for name in names if is_graded(name)]
        for task in METRICS:
            known = {name for cell in grid.cells.values() for name in cell}
            metric = next((name for name in metric_names(task) if name in known), None)
            if metric is not None and corruptions:
                found.append(_matrix(model, grid, task, metric, corruptions))
    return tuple(found)


def _matrix(model: str, grid: Grid, task: str, metric: str, corruptions: Sequence[str]) -> Matrix:
    clean = grid.cells.get((CLEAN, 0), {}).get(metric)
    rows = tuple(
        (clean, *(grid.cells.get((name, level), {}).get(metric) for level in SEVERITIES))
        for name in corruptions
    )
    short = metric.removeprefix(f"{task}_").replace("map", "AP").replace("_", " ")
    word = "shift" if task == "bag" else "corruption"
    return Matrix(
        title=f"{_LABELS[task]} {short} under {word}s".strip(),
        run=model,
        row_label=word,
        column_label="severity",
        rows=tuple(corruptions),
        columns=(CLEAN, *map(str, SEVERITIES)),
        values=rows,
    )
