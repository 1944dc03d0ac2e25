"""Intervals of mPC, rPC and scores on domains, and paired differences between models.

The bootstrap draws images with replacement. A draw has the same images in every cell and for every
model, clean or corrupted: a corruption does not change which image is hard. The metrics of each
cell are computed for each draw, and from them mPC and rPC as from the cells themselves (A800).
Domains have images of their own, and are drawn by themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.robustness.domains import ratio
from evaluation.robustness.grid import Grid, Place, metric_names, places
from evaluation.robustness.kept import kept_file, kept_folder, read_kept
from evaluation.robustness.kept_bags import BagDraws
from evaluation.robustness.names import BENCHMARK, CLEAN, EXTRA, SEVERITIES, domain_of
from evaluation.robustness.scores import (
    FloatArray,
    benchmarks,
    mean_performance,
    relative_performance,
)
from evaluation.seg.coco_bootstrap import drawn_metrics
from evaluation.seg.coco_weighted import Matches, weighted_metrics
from evaluation.statistics.paired import Difference, paired_differences
from evaluation.statistics.resampling import percentile_interval
from evaluation.statistics.sample_size import too_few_images

Interval = tuple[float, float]
Draws = dict[str, FloatArray]  # (R,) by the name of a number

_NAMES = tuple(name for task in ("segm", "box") for name in metric_names(task))
_BAG_NAMES = metric_names("bag")
_BAG_CLEAN = tuple(f"{name}_clean" for name in _BAG_NAMES)
_ROUNDING = 1e-9  # between the metrics of a table and those of its predictions


@dataclass
class Intervals:
    """What the bootstrap says.

    Attributes:
        intervals: model -> (low, high) by the name of a number, such as ``segm_map_mpc``.
        difference: model -> its number minus that of ``first``, by the name of the number.
        domains: model -> domain -> (low, high) by metric, and of its ratio to clean.
        domain_difference: model -> domain -> difference from ``first``.
        first: the model from which others differ, or None.
        notes: sentences on what has no interval, and why.
    """

    first: str | None
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)
    difference: dict[str, dict[str, Difference]] = field(default_factory=dict)
    domains: dict[str, dict[str, dict[str, Interval]]] = field(default_factory=dict)
    domain_difference: dict[str, dict[str, dict[str, Difference]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class _Drawn(NamedTuple):
    """Numbers of one model, on all images and on each draw.

    Attributes:
        data: hash of the images; two models with the same one are paired.
        points: number by name.
        draws: (R,) by name.
    """

    data: Any
    points: dict[str, float]
    draws: Draws


def find_intervals(
    grids: Mapping[str, Grid],
    origins: Mapping[Path, Mapping[str, Any] | None],
    reference: str | None = None,
    *,
    benchmark: Mapping[str, Sequence[str]] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> Intervals:
    """Compute intervals of models from the predictions beside their tables.

    Args:
        grids: model -> cells, with the tables that they were read from.
        origins: table -> what `evaluation.robustness.writer.read_origin` says.
        reference: the model from which the others differ; None for the first with intervals.
        benchmark: see `evaluation.robustness.scores.summarise`.
        draws: number of draws R.
        level: coverage, in (0, 1).
        progress: called with the number of finished cells and of all cells.
    """
    found = Intervals(reference)
    scored = {model: grid for model, grid in grids.items() if _is_scored(grid)}
    bare = [f for f in {grid.file: 0 for grid in scored.values()} if not kept_folder(f).is_dir()]
    for file in bare:
        reason = f"no predictions are kept in {kept_folder(file)}"
        found.notes.append(f"no intervals for the models of {file}, because {reason}")
    over = benchmarks(grids, benchmark)["bag"]
    models = [_Model(m, g, found.notes, over) for m, g in scored.items() if g.file not in bare]
    total, done = sum(len(cells) for one in models for cells in one.sets.values()), 0
    numbers: dict[str, dict[str | None, _Drawn]] = {}
    for one in models:
        cells: dict[Place, Draws] = {}
        for domain, wanted in one.sets.items():
            own: dict[Place, Draws] = {}
            try:
                for place in wanted:
                    own[place] = one.drawn(place, draws)
                    if progress is not None:
                        progress(done + len(own), total)
            except ValueError as error:
                one.note(domain, str(error))
                own = {}
            done += len(wanted)
            cells |= own
        if cells:
            one.note_metrics()
            numbers[one.name] = _numbers(one.grid, cells, origins.get(one.grid.file) or {}, over)
    _collect(found, numbers, level)
    return found


def _is_scored(grid: Grid) -> bool:
    names = {*_NAMES, *_BAG_NAMES}
    return any(not names.isdisjoint(cell) for cell in grid.cells.values())


def _has_bags(grid: Grid) -> bool:
    return not any(name in cell for cell in grid.cells.values() for name in _NAMES)


class _Model:
    """The cells of a model of which predictions are needed.

    Args:
        name: of the model.
        grid: its cells.
        notes: to which it is added what has no interval.
        over: the shifts of mPC of bags.

    Attributes:
        sets: cells on the same images: those of the images under None, and of each domain.
    """

    def __init__(self, name: str, grid: Grid, notes: list[str], over: Sequence[str]) -> None:
        self.name, self.grid, self.notes = name, grid, notes
        self._bags = BagDraws() if _has_bags(grid) else None
        groups = [places(BENCHMARK)[1:], places(EXTRA)[1:]]
        groups = [[(CLEAN, 0)], *(groups if self._bags is None else [places(over)[1:]])]
        whole = {place for one in groups if all(p in grid.cells for p in one) for place in one}
        sets: dict[str | None, list[Place]] = {}
        for place in grid.cells:
            domain = domain_of(place[0])
            if place in whole or domain is not None:
                sets.setdefault(domain, []).append(place)
        self.sets = {domain: cells for domain, cells in sets.items() if self._kept(domain, cells)}
        self._images: dict[str | None, int] = {}

    def note(self, domain: str | None, reason: str) -> None:
        """Note why there are no intervals."""
        of = "" if domain is None else f" of the domain {domain}"
        self.notes.append(f"{self.name}: no intervals{of}, because {reason}")

    def note_metrics(self) -> None:
        """Note which metrics have no intervals."""
        if self._bags is not None and self._bags.unweighted:
            names = ", ".join(self._bags.unweighted)
            self.notes.append(
                f"{self.name}: no intervals of {names}, because the times of the training bags "
                "are not kept"
            )

    def _file(self, place: Place) -> Path:
        kind = "npz" if self._bags is None else "csv"
        return kept_file(self.grid.file, self.name, place, kind)

    def _kept(self, domain: str | None, cells: Sequence[Place]) -> bool:
        file = self.grid.file
        lacking = [place for place in cells if not self._file(place).is_file()]
        if len(lacking) == len(cells):
            self.note(domain, f"no predictions are kept in {kept_folder(file)}")
        elif lacking:
            count = f"{len(lacking)} cells" if len(lacking) > 1 else "a cell"
            name, severity = lacking[0]
            reason = f"predictions of {count} are missing, such as those of {name} {severity}"
            self.note(domain, reason)
        return not lacking

    def drawn(self, place: Place, draws: int) -> Draws:
        """Return the metrics of a cell on each draw.

        Raises:
            ValueError: its predictions cannot be read or are of another cell, or there are too few
                images or bags for an interval.
        """
        path = self._file(place)
        if self._bags is not None:
            return self._bags.drawn(path, self.grid.cells[place], self.grid.file, draws)
        matches = read_kept(path)
        self._check(path, place, matches)
        domain = domain_of(place[0])
        (values,) = drawn_metrics([matches], draws, _seed(domain))
        return {name: values[name] for name in self.grid.cells[place] if name in values}

    def _check(self, path: Path, place: Place, matches: Sequence[Matches]) -> None:
        """Compare the predictions with the cell, and their images with those of the others."""
        images = {one.images for one in matches} or {0}
        count = min(images)
        same = len(images) == 1 and self._images.setdefault(domain_of(place[0]), count) == count
        if same and (few := too_few_images(count)):
            raise ValueError(few)
        values: dict[str, float] = {}
        for one in matches if same else ():
            once = weighted_metrics(one, np.ones((1, count), dtype=np.int64))
            values |= {name: float(value[0]) for name, value in once.items()}
        cell = {name: v for name, v in self.grid.cells[place].items() if name in _NAMES}
        if any(not abs(values.get(name, np.nan) - v) < _ROUNDING for name, v in cell.items()):
            raise ValueError(f"{path} has not the predictions of the cell in {self.grid.file}")


def _seed(domain: str | None) -> int:
    """Return the seed of the draws: other images are drawn independently."""
    if domain is None:
        return 0
    return int.from_bytes(hashlib.sha256(domain.encode()).digest()[:4], "little")


def _numbers(
    grid: Grid, cells: Mapping[Place, Draws], origin: Mapping[str, Any], over: Sequence[str]
) -> dict[str | None, _Drawn]:
    """Return the numbers of a model under None, and its scores on each domain."""
    clean = cells.get((CLEAN, 0), {})
    points = {(place, name): v for place, cell in grid.cells.items() for name, v in cell.items()}
    own: dict[str, tuple[float, FloatArray]] = {}
    for name in (*_NAMES, *_BAG_NAMES):
        if name in clean:
            point = points[(CLEAN, 0), name]
            own[f"{name}_clean"] = point, clean[name]
            own |= dict(_means(name, points, cells, over))
    shared = origin.get("shared", {})
    found: dict[str | None, _Drawn] = {None: _drawn(shared.get("data"), own)} if own else {}
    for place, values in cells.items():
        domain = domain_of(place[0])
        if domain is not None:
            scores = {name: (points[place, name], drawn) for name, drawn in values.items()}
            for name in [name for name in values if name in clean]:
                point, base = points[place, name], points[(CLEAN, 0), name]
                with np.errstate(divide="ignore", invalid="ignore"):
                    of_draws = np.where(clean[name] > 0, values[name] / clean[name], np.nan)
                scores[f"{name}_ratio"] = ratio(point, base), of_draws
            data = origin.get("domains", {}).get(domain, {}).get("data")
            found[domain] = _drawn(data, scores)
    return found


def _drawn(data: Any, numbers: Mapping[str, tuple[float, FloatArray]]) -> _Drawn:
    return _Drawn(
        data, {n: p for n, (p, _) in numbers.items()}, {n: d for n, (_, d) in numbers.items()}
    )


def _means(
    name: str,
    points: Mapping[tuple[Place, str], float],
    cells: Mapping[Place, Draws],
    over: Sequence[str],
) -> Iterator[tuple[str, tuple[float, FloatArray]]]:
    """Yield mPC and rPC of a metric, if all cells have it."""
    chosen: dict[str, Sequence[str]] = {"mpc": over}
    if name not in _BAG_NAMES:
        chosen = {"mpc": BENCHMARK, "mpc_all": (*BENCHMARK, *EXTRA)}
    for key, corruptions in chosen.items():
        needed = places(corruptions)[1:]
        if not needed or any(name not in cells.get(place, {}) for place in needed):
            continue
        shape = len(corruptions), len(SEVERITIES)
        whole = np.array([points[place, name] for place in needed]).reshape(shape)
        drawn = np.stack([cells[place][name] for place in needed], axis=-1).reshape(-1, *shape)
        yield f"{name}_{key}", (float(mean_performance(whole)), mean_performance(drawn))
        if key == "mpc":
            clean = points[(CLEAN, 0), name], cells[CLEAN, 0][name]
            each = (clean[0], whole), (clean[1], drawn)
            one, many = (relative_performance(*pair) for pair in each)
            yield f"{name}_rpc", (float(one), many)


def _collect(
    found: Intervals, numbers: Mapping[str, Mapping[str | None, _Drawn]], level: float
) -> None:
    """Fill in intervals and differences."""
    if found.first is None:
        found.first = next(iter(numbers), None)
    for model, parts in numbers.items():
        for domain, one in parts.items():
            ends = {name: percentile_interval(v, level) for name, v in one.draws.items()}
            differences: dict[str, Difference] = {}
            other = numbers.get(found.first or "", {}).get(domain)
            if model != found.first and other is not None:
                differences = _differences(one, other, level)
                if not differences:
                    what = "images" if domain is None else f"images of the domain {domain}"
                    what = "bags" if not {*one.points}.isdisjoint(_BAG_CLEAN) else what
                    found.notes.append(
                        f"{model}: no difference from {found.first}, because nothing says that "
                        f"the {what} are the same"
                    )
            if domain is None:
                found.intervals[model] = ends
                found.difference |= {model: differences} if differences else {}
            else:
                found.domains.setdefault(model, {})[domain] = ends
                if differences:
                    found.domain_difference.setdefault(model, {})[domain] = differences


def _differences(one: _Drawn, other: _Drawn, level: float) -> dict[str, Difference]:
    """Return the differences of two models, none unless their images are the same."""
    if one.data is None or one.data != other.data:
        return {}
    common = [name for name in one.points if name in other.points]
    points = [{name: each.points[name] for name in common} for each in (one, other)]
    draws = [{name: each.draws[name] for name in common} for each in (one, other)]
    return paired_differences((points[0], points[1]), (draws[0], draws[1]), level).differences
