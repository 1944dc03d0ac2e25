"""What the cells of a model say: mean performance under corruption and degradation.

P is a metric on clean data and P_cs on data with the corruption c at the severity s.

- mPC, mean performance under corruption: mean of P_cs over corruptions and severities.
- rPC, relative performance under corruption: mPC / P.
- CD_c, corruption degradation against a reference model:
  sum_s (1 - P_cs) / sum_s (1 - P^ref_cs). mCD is its mean over corruptions.
- rCD_c, relative degradation: sum_s (P - P_cs) / sum_s (P^ref - P^ref_cs), and its mean.

mPC and rPC are from Michaelis et al. 2019 (arXiv 1907.07484), CD and rCD from Kamann
and Rother 2020 (arXiv 1908.05005), after Hendrycks and Dietterich 2019. Shapes: C corruptions, S
severities; leading dimensions, such as bootstrap draws, are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.robustness.grid import METRICS, Grid, Place, metric_names, places
from evaluation.robustness.names import BENCHMARK, CLEAN, EXTRA, SEVERITIES, is_graded
from evaluation.targets.scores import LOWER_IS_BETTER

FloatArray = npt.NDArray[np.float64]

_LISTED = 8  # cells or corruptions that a note names
_ALIKE = 0.85  # of two names, 1 if they are the same


def mean_performance(values: FloatArray) -> FloatArray:
    """Return mPC (...) of (..., C, S) values; NaN if one of them is NaN."""
    mean: FloatArray = np.mean(values, axis=(-2, -1))
    return mean


def relative_performance(clean: FloatArray | float, values: FloatArray) -> FloatArray:
    """Return rPC (...) of (...) clean and (..., C, S) corrupted values; NaN if clean is not > 0."""
    return _ratio(mean_performance(values), np.asarray(clean))  # A790


def degradation(values: FloatArray, reference: FloatArray) -> FloatArray:
    """Return CD (..., C) of (..., C, S) values; NaN where the reference makes no error."""
    return _ratio(np.sum(1 - values, axis=-1), np.sum(1 - reference, axis=-1))


def relative_degradation(
    clean: FloatArray | float,
    values: FloatArray,
    clean_reference: FloatArray | float,
    reference: FloatArray,
) -> FloatArray:
    """Return rCD (..., C) of (...) clean and (..., C, S) corrupted values.

    NaN where the values of the reference do not fall, so that there is nothing to compare with.
    """
    loss = np.sum(np.asarray(clean)[..., None, None] - values, axis=-1)
    expected = np.sum(np.asarray(clean_reference)[..., None, None] - reference, axis=-1)
    return _ratio(loss, expected)  # A790


def _ratio(value: FloatArray, reference: FloatArray) -> FloatArray:
    """Return the quotient, NaN where the denominator is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(reference > 1e-12, np.divide(value, reference), np.nan)


class Summary(NamedTuple):
    """What the cells of some models say.

    Attributes:
        metrics: model -> number by name: ``segm_map_clean``, ``segm_map_mpc``, ``segm_map_rpc``
            and so on for each metric with a value; ``segm_map_mpc_all``, mPC over the benchmark
            and the extra corruptions, where there are cells of the latter; with a reference
            ``segm_mcd`` and ``segm_rcd`` of the first metric of a task, and ``segm_map_50_mcd``,
            ``segm_map_50_rcd`` of the others. NaN where undefined.
        corruptions: model -> corruption -> mean over the severities by metric; with a reference
            also ``segm_cd`` and ``segm_rcd``. NaN unless all severities are there.
        cells: model -> corruption -> severity -> value by metric; without other data sets, for
            which see `evaluation.robustness.domains`.
        notes: sentences on what is incomplete or undefined.
    """

    metrics: dict[str, dict[str, float]]
    corruptions: dict[str, dict[str, dict[str, float]]]
    cells: dict[str, dict[str, dict[str, dict[str, float]]]]
    notes: list[str]


def summarise(
    grids: Mapping[str, Grid],
    reference: str | None = None,
    benchmark: Mapping[str, Sequence[str]] | None = None,
) -> Summary:
    """Summarise the cells of some models.

    Args:
        grids: model -> cells.
        reference: the model of which CD and rCD are multiples, or None.
        benchmark: task -> corruptions of mPC, rPC, mCD and mean rCD. The default is `BENCHMARK`
            for images, and for bags all shifts that a model has.

    Raises:
        ValueError: no model has the name of the reference.
    """
    if reference is not None and reference not in grids:
        raise ValueError(f"--reference {reference}: no such model; there are {', '.join(grids)}")
    over = benchmarks(grids, benchmark)
    main = {task: main_metric(grids, task) for task in METRICS}
    metrics, corruptions, notes = {}, {}, []
    for model, grid in grids.items():
        compared = None if reference is None else grids[reference]
        own = _ModelSummary(grid, compared, over, main)
        metrics[model], corruptions[model] = own.metrics(), own.corruptions()
        notes += [f"{model}: {note}" for note in own.notes()]
    return Summary(metrics, corruptions, {m: _nested(grid) for m, grid in grids.items()}, notes)


def benchmarks(
    grids: Mapping[str, Grid], benchmark: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Sequence[str]]:
    """Return task -> corruptions over which means are taken; see `summarise` for arguments."""
    return {task: _benchmark(grids, task) for task in METRICS} | dict(benchmark or {})


def _benchmark(grids: Mapping[str, Grid], task: str) -> Sequence[str]:
    if task != "bag":
        return BENCHMARK
    # Bags have no published list of shifts: one that a model lacks makes its mean undefined.
    return tuple(dict.fromkeys(c for g in grids.values() for c in corruptions_of(g, task)))  # A791


def corruptions_of(grid: Grid, task: str) -> list[str]:
    """Return the corruptions for which a model has values of a task, in the order of the cells."""
    found = [name for (name, _), cell in grid.cells.items() if is_graded(name) and _has(cell, task)]
    return list(dict.fromkeys(found))


def _has(cell: Mapping[str, float], task: str) -> bool:
    return any(name.startswith(f"{task}_") for name in cell)


def _of_the_data(grid: Grid) -> dict[Place, dict[str, float]]:
    """Return the cells without those of other data sets, which have other objects."""
    return {p: cell for p, cell in grid.cells.items() if p[0] == CLEAN or is_graded(p[0])}


def tasks_of(grid: Grid) -> list[str]:
    """Return the tasks for which a model has values, on clean or corrupted data."""
    return [task for task in METRICS if any(_has(c, task) for c in _of_the_data(grid).values())]


def metrics_of(grid: Grid, task: str) -> list[str]:
    """Return the metrics of a task for which a model has values, on clean or corrupted data."""
    found = {name for cell in _of_the_data(grid).values() for name in cell}
    return [name for name in metric_names(task) if name in found]


def main_metric(grids: Mapping[str, Grid], task: str) -> str | None:
    """Return the first metric of a task for which one of the models has values, or None."""
    found = {name for grid in grids.values() for name in metrics_of(grid, task)}
    return next((name for name in metric_names(task) if name in found), None)


def array_of(grid: Grid, metric: str, corruptions: Sequence[str]) -> tuple[float, FloatArray]:
    """Return the clean value of a metric and (C, S) corrupted ones; NaN where there is none."""
    level = {place: cell.get(metric, np.nan) for place, cell in grid.cells.items()}
    rows = [[level.get((name, s), np.nan) for s in SEVERITIES] for name in corruptions]
    values = np.array(rows, dtype=np.float64).reshape(len(corruptions), len(SEVERITIES))
    return level.get((CLEAN, 0), np.nan), values


def _nested(grid: Grid) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (name, severity), values in _of_the_data(grid).items():
        found.setdefault(name, {})[str(severity)] = dict(values)
    return found


class _ModelSummary:
    """The numbers of one model.

    Args:
        grid: its cells.
        reference: cells of the reference, or None.
        over: task -> corruptions over which means are taken.
        main: task -> the metric of which CD and rCD have the name of the task.
    """

    def __init__(
        self,
        grid: Grid,
        reference: Grid | None,
        over: Mapping[str, Sequence[str]],
        main: Mapping[str, str | None],
    ) -> None:
        self.grid, self.reference, self.over, self.main = grid, reference, over, main
        self.names = [(task, name) for task in tasks_of(grid) for name in metrics_of(grid, task)]

    def metrics(self) -> dict[str, float]:
        """Return the means over the corruptions, NaN if a cell is missing (A792)."""
        found: dict[str, float] = {}
        for task, name in self.names:
            clean, values = array_of(self.grid, name, self.over[task])
            found[f"{name}_clean"] = clean
            if not self.over[task]:  # only a clean cell: nothing to take a mean of
                values = np.full((1, len(SEVERITIES)), np.nan)
            found[f"{name}_mpc"] = float(mean_performance(values))
            found[f"{name}_rpc"] = float(relative_performance(clean, values))
            if task != "bag" and {*EXTRA} & {*corruptions_of(self.grid, task)}:
                both = array_of(self.grid, name, (*BENCHMARK, *EXTRA))[1]
                found[f"{name}_mpc_all"] = float(mean_performance(both))
            for key, each in self._degradations(task, name, self.over[task]).items():
                # A795
                found[key.replace("_cd", "_mcd")] = float(np.mean(each)) if each.size else np.nan
        return found

    def corruptions(self) -> dict[str, dict[str, float]]:
        """Return the means over the severities."""
        found: dict[str, dict[str, float]] = {}
        for task, name in self.names:
            present = corruptions_of(self.grid, task)
            columns = {name: array_of(self.grid, name, present)[1].mean(axis=1)}
            columns |= self._degradations(task, name, present)
            for number, corruption in enumerate(present):
                own = found.setdefault(corruption, {})
                own |= {key: float(values[number]) for key, values in columns.items()}
        return found

    def _degradations(self, task: str, name: str, over: Sequence[str]) -> dict[str, FloatArray]:
        """Return (C,) CD and rCD by their names; none without a reference or for errors."""
        if self.reference is None or name in LOWER_IS_BETTER:  # A790
            return {}
        start = task if name == self.main[task] else name
        clean, values = array_of(self.grid, name, over)
        clean_reference, reference = array_of(self.reference, name, over)
        return {
            f"{start}_cd": degradation(values, reference),
            f"{start}_rcd": relative_degradation(clean, values, clean_reference, reference),
        }

    def notes(self) -> Iterator[str]:
        """Yield sentences on missing cells and on undefined ratios."""
        yield from self._misspelt()
        groups: dict[tuple[str, bool, tuple[Place, ...]], list[str]] = {}
        for task, name in self.names:
            for what, wanted in self._wanted(task):
                lacking = [place for place in wanted if name not in self.grid.cells.get(place, {})]
                there = [place for place in lacking if _has(self.grid.cells.get(place, {}), task)]
                if lacking:
                    alone = len(there) == len(lacking)  # other metrics of the task have values
                    groups.setdefault((what, alone, tuple(lacking)), []).append(name)
        for (what, alone, missing), names in groups.items():
            cells = _some(_by_name(missing))
            if alone:
                yield f"no {what} of {_some(names)}, without a value in {cells}"
                continue
            count = "1 cell is" if len(missing) == 1 else f"{len(missing)} cells are"
            yield f"no {what} of {_some(names)}, because {count} missing: {cells}"
        for task, name in self.names:
            clean, values = array_of(self.grid, name, self.over[task])
            if clean <= 0 and np.isfinite(values).all():
                yield f"no rPC of {name}, because its clean value is {clean:g}"
            yield from self._undefined_degradation(task, name)

    def _misspelt(self) -> Iterator[str]:
        """Yield names that may be meant for a missing corruption of the benchmark."""
        found = {name for task in tasks_of(self.grid) if task != "bag"
                 for name in corruptions_of(self.grid, task)}  # fmt: skip
        missing = [name for name in BENCHMARK + EXTRA if name not in found]
        for name in sorted(found.difference(BENCHMARK + EXTRA)):
            plain = name.lower().replace(" ", "_").replace("-", "_")
            if near := get_close_matches(plain, missing, n=1, cutoff=_ALIKE):
                yield f"{name} is taken for a corruption of its own; if it is {near[0]}, rename it"

    def _wanted(self, task: str) -> Iterator[tuple[str, list[tuple[str, int]]]]:
        """Yield numbers and the cells that each needs."""
        over = self.over[task]
        yield "rPC", [(CLEAN, 0)]
        yield "mPC and rPC", places(over)[1:]
        others = [name for name in corruptions_of(self.grid, task) if name not in over]
        yield "mean over severities", places(others)[1:]

    def _undefined_degradation(self, task: str, name: str) -> Iterator[str]:
        if self.reference is None or name in LOWER_IS_BETTER:
            return
        over = self.over[task]
        both = [array_of(grid, name, over) for grid in (self.grid, self.reference)]
        if np.isnan(both[1][1]).all():
            yield f"no CD of {name}, because the reference has no such values"
        if np.isnan([clean for clean, _ in both]).any():
            return
        complete = np.isfinite(np.concatenate([v for _, v in both], axis=1)).all(axis=1)
        for key, values in self._degradations(task, name, over).items():
            lost = [c for c, known, value in zip(over, complete, values, strict=True)
                    if known and np.isnan(value)]  # fmt: skip
            if lost:
                what = "falls" if key.endswith("_rcd") else "errs"
                yield f"no {key} of {_some(lost)}, where the reference never {what}"


def _by_name(missing: Sequence[tuple[str, int]]) -> list[str]:
    """Return cells in words, a corruption at a time; without severities if all are missing.

    >>> _by_name([("clean", 0), ("fog", 1), ("fog", 3), *((("snow", s) for s in range(1, 6)))])
    ['clean', 'fog 1 3', 'snow']
    """
    found: dict[str, list[int]] = {}
    for name, severity in missing:
        found.setdefault(name, []).append(severity)
    whole = ([0], list(SEVERITIES))
    return [n if s in whole else f"{n} {' '.join(map(str, s))}" for n, s in found.items()]


def _some(names: Any) -> str:
    listed = list(names)
    more = len(listed) - _LISTED
    return ", ".join(listed[:_LISTED]) + (f" and {more} more" if more > 0 else "")
