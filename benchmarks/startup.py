"""Startup times: `--help`, `fit --help` and the quickstart's first optimizer step.

Each is a new process, timed from its launch. The table shows the fastest and the median run and the
bound. The exit code is 1 if a median exceeds its bound.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

ROOT = Path(__file__).resolve().parents[1]
FIRST_STEP = """
from pathlib import Path
import quickstart
quickstart.RUNS = Path({folder!r})
quickstart.OUT = quickstart.RUNS / "quickstart"
quickstart.EXTRA += [
    "--trainer.callbacks",
    "[{{class_path: benchmarks.startup.StopAfterFirstStep, init_args: {{file: {file!r}}}}}]",
]
quickstart.main()
"""
CASES = {  # name -> (arguments of python, bound in seconds)
    "train.py --help": (["train.py", "--help"], 1.0),
    "evaluate.py --help": (["evaluate.py", "--help"], 1.0),
    "train.py fit --help": (["train.py", "fit", "--help"], 8.0),
    "quickstart, first optimizer step": (None, 15.0),
}


class StopAfterFirstStep(pl.Callback):
    """Write the time of the first optimizer step and end the process.

    Args:
        file: output file of the time, in seconds since 1970.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the time and exit without cleanup."""
        del pl_module, outputs, batch, batch_idx
        if trainer.global_step >= 1:
            self.file.write_text(repr(time.time()))
            os._exit(0)


def seconds(arguments: list[str] | None) -> float:
    """Run one case in a new process and return its seconds."""
    options: dict[str, Any] = {"cwd": ROOT, "stdout": subprocess.DEVNULL}
    options["stderr"] = subprocess.DEVNULL
    start = time.time()
    if arguments is not None:
        subprocess.run([sys.executable, *arguments], check=True, **options)
        return time.time() - start
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "first_step"
        code = FIRST_STEP.format(folder=folder, file=str(file))
        start = time.time()
        subprocess.run([sys.executable, "-c", code], check=True, **options)
        return float(file.read_text()) - start


def main() -> int:
    """Run all cases in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(repeats):
        for name, (arguments, _) in CASES.items():
            times[name].append(seconds(arguments))
    late = False
    print(f"{'what':34s} {'fastest':>9s} {'median':>9s} {'bound':>8s}")
    for name, (_, bound) in CASES.items():
        median = statistics.median(times[name])
        late |= median > bound
        print(f"{name:34s} {min(times[name]):7.2f} s {median:7.2f} s {bound:6.0f} s")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
