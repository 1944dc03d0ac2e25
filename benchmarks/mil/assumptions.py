"""Algorithmic unit tests of all models: the table and the figure of docs/METHODS.md.

Run `python benchmarks/mil/assumptions.py --write`. Each model is a small variant of a recipe
(`benchmarks/mil/assumption_rows.py`), trained with the settings of `evaluate.py mil-assumptions`.
The result of every training is a file in ``--results``. Existing results with the same recipe and
settings are not trained again, so an interrupted run continues. Delete the folder after a change of
code.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.mil.assumption_rows import ROOT, Row, rows
from benchmarks.mil.assumption_table import PROPERTIES, summary, table, written
from evaluation.mil_assumptions.figure import plot_assumptions
from evaluation.mil_assumptions.structure import check_structure
from evaluation.mil_assumptions.suite import AssumptionReport, SeedResult, run_test
from evaluation.mil_assumptions.training import AssumptionSettings, alone
from evaluation.report.plots import save_figure
from formats.files import write_json

DOCUMENT = ROOT / "docs/METHODS.md"
IMAGE = ROOT / "docs/mil_assumptions.png"
Job = tuple[Row, int, int]  # row, test and seed; test 0 means the structural tests


def file_of(folder: Path, job: Job) -> Path:
    """Return the path of a job's result."""
    row, test, seed = job
    name = re.sub(r"\W+", "_", row.name).strip("_").lower()
    return folder / name / (f"test_{test}_seed_{seed}.json" if test else "structure.json")


@functools.cache
def key_of(row: Row, settings: AssumptionSettings) -> dict[str, Any]:
    """Return the settings that a result depends on, as JSON values."""
    trained = dataclasses.asdict(settings)
    del trained["tests"], trained["seeds"]  # a result belongs to one test and one seed
    key: dict[str, Any] = json.loads(json.dumps({"model": row.build().section, **trained}))
    return key


def finished(folder: Path, job: Job, settings: AssumptionSettings) -> dict[str, Any] | None:
    """Return a job's record, or None if it is missing or has other settings."""
    path = file_of(folder, job)
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    return record if record["key"] == key_of(job[0], settings) else None


def compute(folder: Path, settings: AssumptionSettings, job: Job) -> str:
    """Compute one job, write its record and return a summary line."""
    row, test, seed = job
    record: dict[str, Any] = {"key": key_of(row, settings), "row": row.name}
    start = time.perf_counter()
    if test:
        result = run_test(row.build(), test, seed, settings)
        found = result._asdict()
        found["example"] = None if result.example is None else result.example.describe()
        text = f"test {test}, seed {seed}: {result.train_auc:.3f} / {result.test_auc:.3f} "
        text += result.vote
    else:
        with alone(0):
            found = check_structure(row.build()).record()
        text = "structure: " + ", ".join(found[name]["status"] for name in PROPERTIES)
    write_json(file_of(folder, job), {**record, "found": found})
    return f"{row.name}, {text}, {time.perf_counter() - start:.1f} s"


def jobs_of(chosen: list[Row], settings: AssumptionSettings) -> list[Job]:
    """Return all jobs, ordered by seed."""
    jobs: list[Job] = [(row, 0, 0) for row in chosen]
    seeds = range(settings.seeds)
    return jobs + [(row, test, seed) for seed in seeds for row in chosen for test in settings.tests]


def run(jobs: list[Job], folder: Path, settings: AssumptionSettings, workers: int) -> Iterator[str]:
    """Compute the missing jobs and yield a summary line for each."""
    missing = [job for job in jobs if finished(folder, job, settings) is None]
    work = functools.partial(compute, folder, settings)
    if workers == 1:
        yield from map(work, missing)
        return
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(work, missing)


def report_of(
    row: Row, folder: Path, settings: AssumptionSettings
) -> tuple[AssumptionReport, dict[str, Any]] | None:
    """Return the report and structure of a row, or None if one of them has no result yet."""
    cells = []
    for test in settings.tests:
        for seed in range(settings.seeds):
            record = finished(folder, (row, test, seed), settings)
            if record is not None:
                cells.append(SeedResult(**record["found"]))
    structure = finished(folder, (row, 0, 0), settings)
    if structure is None or not cells:
        return None
    seconds = sum(result.seconds for result in cells)
    found: Any = structure["found"]
    report = AssumptionReport(row.name, "recipe", "", settings, tuple(cells), found, seconds)
    return report, found


def main(arguments: list[str] | None = None) -> int:
    """Compute missing results, print the table and, with --write, write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "runs/mil_assumptions")
    parser.add_argument("--seeds", type=int, default=AssumptionSettings().seeds)
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help="stems in configs/mil")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    parser.add_argument("--write", action="store_true", help="write table and figure to docs/")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = AssumptionSettings(seeds=args.seeds)
    chosen = [row for row in rows() if args.only is None or row.recipe in args.only]
    unknown = sorted(set(args.only or ()) - {row.recipe for row in chosen})
    if unknown:
        parser.error(f"--only: no row has the recipe {', '.join(unknown)}")
    if args.write and args.only:
        parser.error("--write writes the whole table to docs/; leave out --only")
    if not args.table_only:
        for line in run(jobs_of(chosen, settings), args.results, settings, args.workers):
            print(line, flush=True)
    known = {row.name: report_of(row, args.results, settings) for row in chosen}
    reports = {name: found for name, found in known.items() if found is not None}
    if not reports:
        print("no results yet")
        return 0
    cells = [result for report, _ in reports.values() for result in report.results]
    content = f"{table(reports)}\n\n{summary(cells, next(iter(reports.values()))[0])}"
    print(content)
    if args.write:
        DOCUMENT.write_text(written(DOCUMENT.read_text(), content))
        figure = plot_assumptions({name: report.results for name, (report, _) in reports.items()})
        print(f"written: {DOCUMENT} and {save_figure(figure, IMAGE, dpi=110)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
