"""Numbers of the study of robustness over seeds, with paired intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.robustness.cells import Cell, Place, read
from benchmarks.robustness.plan import METHODS, Run
from benchmarks.robustness.training import DONE
from evaluation.robustness.domains import domain_places
from evaluation.robustness.names import CLEAN, DOMAIN, SEVERITIES
from evaluation.statistics.resampling import draw_counts, percentile_interval
from formats.files import file_hash

FloatArray = npt.NDArray[np.float64]
SHOWN = (1, 3, 5)  # a run whose cells of these are there is shown


class Number(NamedTuple):
    """A number of one run and its bootstrap draws (R,)."""

    value: float
    draws: FloatArray

    def share_of(self, other: Number) -> Number:
        """Return this divided by another number; NaN where both are 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(np.float64(self.value) / other.value)
            return Number(value, self.draws / other.draws)


class Scored(NamedTuple):
    """A run with its cells.

    Attributes:
        run: data set, method and seed.
        cells: by corruption and severity.
        seconds: processor time of the training.
        scoring: processor time of the cells.
    """

    run: Run
    cells: dict[Place, Cell]
    seconds: float
    scoring: float


class Interval(NamedTuple):
    """A mean over seeds with its 95 % interval.

    Attributes:
        value: the mean.
        low: lower end.
        high: upper end.
        above: number of seeds whose value is above 0.
        seeds: number of seeds.
    """

    value: float
    low: float
    high: float
    above: int
    seeds: int


def scored_runs(root: Path, data: str) -> list[Scored]:
    """Return the runs of a data set that have cells, in the order of the methods and seeds."""
    found = []
    for method in METHODS[data]:
        for folder in sorted((root / data / method).glob("seed_*")):
            if not (folder / DONE).is_file():
                continue
            record = json.loads((folder / DONE).read_text())
            if cells := read(folder, file_hash(folder / record["checkpoint"])):
                run = Run(data, method, int(folder.name.removeprefix("seed_")))
                spent = sum(cell.seconds for cell in cells.values())
                found.append(Scored(run, cells, record["seconds"], spent))
    return found


def has(cells: Mapping[Place, Cell], corruptions: Sequence[str], severity: int) -> bool:
    """Return whether all corruptions have a cell of a severity."""
    return all((name, severity) in cells for name in corruptions)


def split_by_progress(
    runs: Sequence[Scored], corruptions: Sequence[str], domains: Sequence[str]
) -> tuple[list[Scored], list[Scored], list[int]]:
    """Return the runs that are shown, the others, and the severities that all shown ones have."""
    needed = [(CLEAN, 0), *domain_places(domains)]
    shown, others = [], []
    for one in runs:
        ready = all(place in one.cells for place in needed)
        ready = ready and all(has(one.cells, corruptions, level) for level in SHOWN)
        (shown if ready else others).append(one)
    levels = [n for n in SEVERITIES if all(has(one.cells, corruptions, n) for one in shown)]
    return shown, others, levels


def number(cells: Mapping[Place, Cell], places: Sequence[Place]) -> Number:
    """Return the mean of the main metric over some cells."""
    values = [next(iter(cells[place].metrics.values())) for place in places]
    return Number(
        float(np.mean(values)), np.asarray(np.mean([cells[p].draws for p in places], axis=0))
    )


def numbers(
    cells: Mapping[Place, Cell],
    groups: Mapping[str, Sequence[str]],
    levels: Sequence[int],
    domains: Sequence[str],
) -> dict[str, Number]:
    """Return the numbers of a run by name.

    Args:
        cells: of the run.
        groups: name of a group -> corruptions; together they are those of mPC.
        levels: severities over which means are taken.
        domains: names of other data sets.

    Returns:
        ``clean``, ``mpc``, ``rpc``, the groups, the domains and ``DOMAIN / clean``.
    """
    clean = number(cells, [(CLEAN, 0)])
    every = list(dict.fromkeys(name for names in groups.values() for name in names))
    mpc = number(cells, [(name, level) for name in every for level in levels])
    found = {"clean": clean, "mpc": mpc, "rpc": mpc.share_of(clean)}
    for group, names in groups.items():
        found[group] = number(cells, [(name, level) for name in names for level in levels])
    for name in domains:
        found[name] = number(cells, [(f"{DOMAIN}{name}", 0)])
        found[f"{name} / clean"] = found[name].share_of(clean)
    return found


def over_seeds(of_seeds: Sequence[Number], minus: Sequence[Number] = ()) -> Interval:
    """Return the mean over seeds, or of the differences by seed, with its interval.

    Images are resampled alike in all runs; with several seeds, these are resampled as well (A817).

    Args:
        of_seeds: a number of each seed.
        minus: that of the other method with the same seeds.
    """
    values = np.array([one.value for one in of_seeds])
    draws = np.array([one.draws for one in of_seeds])
    if minus:
        values = values - [one.value for one in minus]
        draws = draws - np.array([one.draws for one in minus])
    seeds, count = draws.shape
    chosen = next(draw_counts([np.arange(seeds)], count, 1, count))
    low, high = percentile_interval((chosen.T * draws).sum(axis=0) / seeds, 0.95)
    return Interval(float(values.mean()), low, high, int((values > 0).sum()), seeds)
