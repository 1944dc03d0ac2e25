"""Cells of a run: scores and bootstrap draws under every corruption, kept as soon as known.

A cell is a file, ``cells/fog_3.npz``, with the metrics of `evaluate.py robustness` and the main one
in `DRAWS` resampled data sets, the same in all cells and runs, so that differences are paired. The
table ``robustness.csv`` of a run is one of `evaluate.py robustness --cells`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.robustness.domains import domain_places
from evaluation.robustness.grid import COLUMNS, METRICS, Place
from evaluation.robustness.names import CLEAN
from evaluation.statistics.resampling import draw_counts
from formats.files import atomic_write, file_hash

FloatArray = npt.NDArray[np.float64]
DRAWS = 500
ORDER = (1, 3, 5, 2, 4)  # severities: three of them are a result that can be shown


class Cell(NamedTuple):
    """Scores of a model in one cell.

    Attributes:
        metrics: value by name.
        draws: (R,) values of the main metric in resampled test data.
        seconds: processor time.
    """

    metrics: dict[str, float]
    draws: FloatArray
    seconds: float = 0.0


def weights(count: int) -> npt.NDArray[np.int64]:
    """Return (R, count): how often each draw has each image or bag."""
    return next(draw_counts([np.arange(count)], DRAWS, 0, DRAWS))


def wanted(corruptions: Sequence[str], domains: Iterable[str] = ()) -> list[Place]:
    """Return the cells of a run: clean, domains, then severity by severity."""
    first = [(CLEAN, 0), *domain_places(domains)]
    return first + [(name, level) for level in ORDER for name in corruptions]


def fill(
    folder: Path,
    checkpoint: Path,
    places: Sequence[Place],
    prepare: Callable[[], Callable[[Place], Cell]],
    until: float | None = None,
) -> int:
    """Score what is missing of a run, and write its table.

    Args:
        folder: of the run.
        checkpoint: the scored one; cells of another one are scored again.
        places: the cells, in order.
        prepare: returns what scores a cell; called only if one is missing.
        until: time at which no further cell is begun, in seconds of `time.time`.

    Returns:
        Number of cells that are still missing.
    """
    made_from = file_hash(checkpoint)
    known = read(folder, made_from)
    missing = [place for place in places if place not in known]
    score = prepare() if missing else None
    while missing and score is not None and not (until and time.time() > until):
        place = missing.pop(0)
        start = time.process_time()
        cell = score(place)._replace(seconds=time.process_time() - start)
        _write(folder, place, cell, made_from)
        print(
            f"{folder}: {place[0]} {place[1]}: {next(iter(cell.metrics.values())):.3f}", flush=True
        )
    write_table(folder, made_from)
    return len(missing)


def read(folder: Path, made_from: str) -> dict[Place, Cell]:
    """Return the cells of a run that were made from the checkpoint of a hash."""
    found = {}
    for file in sorted((folder / "cells").glob("*.npz")):
        with np.load(file) as content:
            if made_from == str(content["checkpoint"]):
                place = str(content["corruption"]), int(content["severity"])
                metrics = dict(
                    zip(content["names"].tolist(), content["values"].tolist(), strict=True)
                )
                found[place] = Cell(metrics, content["draws"], float(content["seconds"]))
    return found


def _write(folder: Path, place: Place, cell: Cell, made_from: str) -> None:
    name = f"{place[0].replace(':', '_')}_{place[1]}.npz"
    content: dict[str, Any] = {
        "corruption": place[0],
        "severity": place[1],
        "checkpoint": made_from,
        "names": list(cell.metrics),
        "values": list(cell.metrics.values()),
        "draws": cell.draws,
        "seconds": cell.seconds,
    }
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "cells" / name) as file:
        np.savez(file, **content)


def write_table(folder: Path, made_from: str) -> None:
    """Write the cells of a run as a table of `evaluate.py robustness`."""
    rows = []
    for (corruption, severity), cell in read(folder, made_from).items():
        for name, value in cell.metrics.items():
            task, _, metric = name.partition("_")
            if metric in METRICS.get(task, ()) and not np.isnan(value):
                rows.append([corruption, severity, task, metric, repr(value)])
    with atomic_write(folder / "robustness.csv") as file:
        lines = [list(COLUMNS[1:]), *rows]
        file.write("".join(",".join(map(str, line)) + "\n" for line in lines).encode())
