"""Seconds of a training on a cohort of slides, split in reading and training, for some checkouts.

Run `python benchmarks/mil/cohort.py FOLDER [--checkout NAME=DIR ...]`. The folder gets 60 slides of
5 000 x 1024 float16 in the layout of TRIDENT (an h5 file with a chunk a row) if it has none, and
the same slides as `convert-features --format h5` writes them. Every way of reading trains ABMIL
(`configs/mil/abmil_features.yaml`) on the first of five folds by `train.py fit`, in turns:

- *before*: another checkout, if one is given by `--checkout before=DIR`;
- *now*: this checkout; *cache*: with `cache_gib`; *converted*: on the converted files; *part*: with
  `max_instances 1000`.

*Reading* is ``time/data`` of a run without loader workers, the time between two batches: reading,
collating, moving, converting. *Training* is the rest of a step. Both are given for the first epoch
and for the mean of the later ones. *Fold* is the whole command with the start of the program,
validation and checkpoints. Times are those of the processor, which other jobs disturb least; with
`--wall` they are those of a clock, and with `--workers N` reading is what is left to wait for.
"""

from __future__ import annotations

import argparse
import csv
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "configs/mil/abmil_features.yaml"
# `train.py` with another clock for time/data and time/step
PROCESSOR = """
import sys, time
sys.path.insert(0, "")
import callbacks.run.throughput as throughput, train
throughput.perf_counter = time.process_time
sys.exit(train.main(sys.argv[1:]))
"""


class Way(NamedTuple):
    """A way of reading: a checkout, a folder of features and flags of `train.py fit`."""

    checkout: Path
    features: str
    flags: tuple[str, ...] = ()


class Timing(NamedTuple):
    """Seconds: of reading and training in the first epoch and in later ones, and of the command."""

    first_reading: float
    first_training: float
    reading: float
    training: float
    fold: float


def write_cohort(folder: Path, slides: int, instances: int) -> Path:
    """Write features of made-up slides that do not exist yet, and return their table."""
    features = folder / "trident"
    features.mkdir(parents=True, exist_ok=True)
    lines = ["slide_id,label"]
    for number in range(slides):
        file, random = features / f"s{number:03}.h5", np.random.default_rng(number)
        lines.append(f"s{number:03},{'ab'[number % 2]}")
        if file.exists():
            continue
        values = random.normal(size=(instances, 1024)).astype(np.float16)
        values[: instances // 20, number % 2] += 3
        coords = random.integers(0, 100_000, (instances, 2))
        with h5py.File(file, "w") as stream:
            for name, array in (("features", values), ("coords", coords)):
                rest = array.shape[1:]
                stream.create_dataset(name, data=array, chunks=(1, *rest), maxshape=(None, *rest))
    table = folder / "slides.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def call(checkout: Path, wall: bool, *words: object) -> float:
    """Run Python in a checkout and return the time of the clock, or of the processor."""

    def clock() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter() if wall else used.ru_utime + used.ru_stime

    start = clock()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, words)],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{checkout}: {' '.join(map(str, words))}\n{done.stderr[-3000:]}")
    return clock() - start


def train(way: Way, table: Path, epochs: int, workers: int, wall: bool) -> Timing:
    """Train on a fold and return its times."""
    with tempfile.TemporaryDirectory() as runs:
        fold = call(
            way.checkout, wall, *(["train.py"] if wall else ["-c", PROCESSOR]),
            "fit", "--config", RECIPE, "--data.table", table,
            "--data.features", table.parent / way.features, "--data.fold", 0,
            "--data.num_folds", 5, "--data.num_workers", workers, "--trainer.max_epochs", epochs,
            "--trainer.log_every_n_steps", 1, "--trainer.accelerator", "cpu", "--runs_dir", runs,
            *way.flags,
        )  # fmt: skip
        with next(Path(runs).rglob("metrics.csv")).open() as stream:
            rows = [row for row in csv.DictReader(stream) if row.get("time/step")]
    steps = len(rows) // epochs
    data, whole = ([float(row[f"time/{n}"]) for row in rows] for n in ("data", "step"))
    times = [t - d for t, d in zip(whole, data, strict=True)]
    later = max(epochs - 1, 1)
    return Timing(
        sum(data[:steps]), sum(times[:steps]),
        sum(data[-later * steps :]) / later, sum(times[-later * steps :]) / later, fold,
    )  # fmt: skip


def ways_of(args: argparse.Namespace) -> dict[str, Way]:
    """Return the ways to time by name."""
    now = {
        "now": Way(ROOT, "trident"),
        "cache": Way(ROOT, "trident", ("--data.cache_gib", "4")),
        "converted": Way(ROOT, "converted"),
        "part": Way(ROOT, "trident", ("--data.max_instances", "1000")),
    }
    others = {}
    for word in args.checkout:
        name, _, folder = word.partition("=")
        others[name] = Way(Path(folder).resolve(), "trident")
        others[f"{name}, part"] = Way(
            Path(folder).resolve(), "trident", ("--data.max_instances", "1000")
        )
    return others | now


def main() -> None:
    """Print a line for each way of reading."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--slides", type=int, default=60)
    parser.add_argument("--instances", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--wall", action="store_true", help="times of the clock")
    args = parser.parse_args()
    folder = args.folder.resolve()
    table = write_cohort(folder, args.slides, args.instances)
    words = ["--from", folder / "trident", "--to", folder / "converted", "--format", "h5"]
    seconds = call(ROOT, args.wall, "evaluate.py", "convert-features", *words)
    print(f"convert-features: {seconds:.1f} s", flush=True)
    ways = ways_of(args)
    found: dict[str, list[Timing]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            found[name].append(train(way, table, args.epochs, args.workers, args.wall))
            print(f"  {name}: {found[name][-1]}", flush=True)
    print(f"{'':14s} first epoch: read, train   later: read, train   fold of {args.epochs} epochs")
    for name, timings in found.items():
        t = Timing(*(statistics.median(column) for column in zip(*timings, strict=True)))
        print(
            f"{name:14s} {t.first_reading:10.2f} {t.first_training:10.2f} s "
            f"{t.reading:12.2f} {t.training:10.2f} s {t.fold:12.1f} s"
        )


if __name__ == "__main__":
    main()
