"""Speed of training cross-validation folds together against one by one.

Run `python benchmarks/mil/folds.py --data FOLDER [--steps S]`, where the folder has `musk1.npz`,
`elephant.npz` and `musk2.npz`. For each recipe, the 50 folds of five repeats are trained together
for S steps on one thread, and three of them one by one. Both are timed twice, alternating, and the
faster run counts. Times are processor time per step of a fold, which other jobs disturb less. The
time to build the modules and to compare the first batch is subtracted by timing a run of one step.
The predictions of both ways are compared as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datamodules.mil.npz_file import read_bag_file
from engine.cross_validation.folds import FoldResult, run_fold
from engine.cross_validation.recipe import read_recipe
from engine.cross_validation.together import run_folds

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ("mi_net", "mi_net_embedding", "abmil_classic", "dsmil_classic", "abmil")
SETS = ("musk1", "elephant", "musk2")
ALONE = 3  # folds that are also trained one by one

Way = Callable[[int], list[FoldResult]]


def seconds_per_step(way: Way, steps: int) -> tuple[float, list[FoldResult]]:
    """Return the processor time per step of all folds, and the predictions."""
    start = time.process_time()
    way(1)
    begun = time.process_time()
    found = way(1 + steps)
    return (time.process_time() - begun - (begun - start)) / steps, found


def compare(recipe_file: Path, data: Path, steps: int) -> str:
    """Return one row of the table."""
    recipe, bags = read_recipe(recipe_file), read_bag_file(data)
    folds = [bags.folds(10, repeat, 0) for repeat in range(5)]
    tasks = [(row, (0, repeat, fold)) for repeat, row in enumerate(folds) for fold in range(10)]
    reasons: list[str] = []

    def limited(limit: int) -> Any:
        return dataclasses.replace(recipe, max_steps=limit, max_epochs=None)

    def together(limit: int) -> list[FoldResult]:
        return run_folds(bags, tasks, limited(limit), reasons.append)

    def alone(limit: int) -> list[FoldResult]:
        return [run_fold(bags, row, limited(limit), key) for row, key in tasks[:ALONE]]

    times: dict[str, list[float]] = {"together": [], "alone": []}
    for _ in range(2):
        spent, all_folds = seconds_per_step(together, steps)
        times["together"].append(spent / len(tasks))
        spent, some = seconds_per_step(alone, steps)
        times["alone"].append(spent / ALONE)
    assert not reasons, reasons
    pairs = zip(all_folds, some, strict=False)
    error = max(float(np.abs(a.probabilities - b.probabilities).max()) for a, b in pairs)
    one, grouped = min(times["alone"]), min(times["together"])
    name = f"{recipe_file.stem}, {data.stem}"
    return f"| {name} | {one * 1e3:.2f} | {grouped * 1e3:.2f} | {one / grouped:.1f} | {error:.0e} |"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, required=True, help="folder of the npz files")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| recipe, set | one by one, ms | together, ms | ratio | largest difference |")
    print("|---" * 5 + "|")
    for name in RECIPES:
        for data in SETS:
            file = ROOT / f"configs/mil/{name}.yaml"
            print(compare(file, args.data / f"{data}.npz", args.steps), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
