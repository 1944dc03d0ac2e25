"""Synthetic whole slides: AEM, MHIM and SC-MIL, each against its own baseline.

Run `python benchmarks/wsi_mil/run.py`; it trains what `runs/wsi_mil` does not hold yet, one JSON a
run, and prints the tables: interrupt it and run it again. `--only METHOD[:NEGATIVES[:SEED]] ...`
trains a part, `--report` nothing; `--tune` prints what ABMIL alone scores on seeds that are not
reported, by which difficulty and learning rate were chosen. One thread by default.

Every run has its seed's world, 60 training bags (half of them positive, or one in eleven) and 25
epochs. Scored are the 40 test bags and 100 more of the same world (50 of each class), which say
the same with less noise (A179). The generator is `bags.py`, the recipes are in `methods.py`,
measures in `measures.py`, intervals and pictures in `tables.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.wsi_mil import measures, tables
from benchmarks.wsi_mil.bags import Slides, SlideSet
from benchmarks.wsi_mil.methods import METHODS, build, fold_recipe, settings_of
from evaluation.plots import save_figure
from lightning_modules.mil_folds import Fold, train_fold

FOLDER = Path("runs/wsi_mil")
SEEDS, TUNING_SEEDS = (1, 2, 3, 4, 5), (101, 102, 103)
RATIOS = (1, 10)  # negative bags to a positive one
# What is compared first comes first, at the ratio that it is about; then the rest.
ORDER = (
    ("balanced", "sc_mil", 10), ("abmil", "aem", 1), ("plain", "mhim", 1), ("abmil", "aem", 10),
    ("plain", "mhim", 10), ("weighted", "shuffled", 10), ("balanced", "sc_mil", 1),
    ("shuffled", "weighted", 1), ("twice", "twice", 1), ("twice", "twice", 10),
    ("plain_v2", "mhim_v2", 1), ("plain_v2", "mhim_v2", 10),
)  # fmt: skip
# Class weights of equal classes are 1.
SAME_AS_ANOTHER = {("weighted", 1)}


@functools.lru_cache(maxsize=5)
def slide_set(seed: int, split: Any, negatives: int) -> SlideSet:
    """Return the slides of a split, kept from run to run."""
    return SlideSet(seed, split, negatives)


def train(name: str, negatives: int, seed: int, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the trained module of a method and what was seen on the way."""
    method, recipe = METHODS[name], fold_recipe(name, folder / "recipes")
    bags = slide_set(seed, "train", negatives)
    torch.manual_seed(seed)
    module = build(recipe, bags.in_features)
    seen: dict[str, Any] = {}
    if method.begins_with is not None:
        module.receive(_first_stage(method.begins_with, negatives, seed, folder))
        seen["masking_begin"] = measures.masking(module, bags, progress=0.0)
    everything = np.ones(len(bags.labels), dtype=bool)
    read = bags.reader(recipe.plan.max_instances, seed)
    fold = Fold(module, ~everything, ~everything, list(range(everything.size)), read, seed)
    start = time.perf_counter()
    train_fold(fold, bags, recipe)
    seen["seconds"] = time.perf_counter() - start
    module.eval()
    if method.begins_with is not None:  # the high mask of the last step drops next to nothing
        seen["masking_end"] = measures.masking(module, bags, progress=0.5)
    return module, seen


def _first_stage(name: str, negatives: int, seed: int, folder: Path) -> dict[str, Any]:
    file = _file(name, negatives, seed, folder).with_suffix(".pt")
    if _finished(name, negatives, seed, folder) is None or not file.is_file():
        run(name, negatives, seed, folder)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def run(name: str, negatives: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train and measure one method on one seed, and keep the result."""
    module, seen = train(name, negatives, seed, folder)
    result = _identity(name) | {"method": name, "negatives": negatives, "seed": seed} | seen
    start = time.perf_counter()
    training = slide_set(seed, "train", negatives)
    large, whole = slide_set(seed, "large", 1), measures.predict(module, training)
    result["train"] = {"labels": whole["labels"], "logits": whole["logits"]}
    result["test"] = measures.predict(module, slide_set(seed, "test", negatives))
    result["large"] = measures.predict(module, large)
    result["contrast"] = [measures.contrast(module, bags) for bags in (training, large)]
    result["seconds_measuring"] = time.perf_counter() - start
    file = _file(name, negatives, seed, folder)
    if METHODS[name].plain:
        _write(file.with_suffix(".pt"), lambda part: torch.save(module.model.state_dict(), part))
    _write(file, lambda part: part.write_text(json.dumps(result)))
    return result


def _identity(name: str) -> dict[str, Any]:
    """Return what a result depends on beside method, bags and seed."""
    kept = {"slides": dataclasses.asdict(Slides()), "recipe": settings_of(name)}
    identity: dict[str, Any] = json.loads(json.dumps(kept))
    return identity


def _file(name: str, negatives: int, seed: int, folder: Path) -> Path:
    return folder / f"{name}-{negatives}-{seed}.json"


def _write(file: Path, write: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f"{file.suffix}.part")
    write(part)
    part.replace(file)


def _finished(name: str, negatives: int, seed: int, folder: Path) -> dict[str, Any] | None:
    """Return the kept result, None where there is none or it is of other settings."""
    file = _file(name, negatives, seed, folder)
    if not file.is_file():
        return None
    result: dict[str, Any] = json.loads(file.read_text())
    return result if _identity(name).items() <= result.items() else None


def tune(folder: Path) -> None:
    """Print what plain ABMIL scores on the seeds for tuning."""
    for name in ("abmil", "plain", "balanced"):
        for negatives in RATIOS:
            for seed in TUNING_SEEDS:
                result = _finished(name, negatives, seed, folder)
                result = result or run(name, negatives, seed, folder)
                print(f"{name} 1:{negatives} seed {seed}: {tables.told(result)}", flush=True)


def _wanted(only: list[str] | None) -> list[tuple[str, int, int]]:
    """Return method, ratio and seed of the runs in the order in which they are made."""
    # Rows that are compared come together, so that an early end leaves whole comparisons.
    pairs = [(pair, n, s) for *pair, n in ORDER for s in SEEDS if n in RATIOS]
    runs = [(m, n, s) for pair, n, s in pairs for m in dict.fromkeys(pair)]
    runs = [r for r in runs if r[:2] not in SAME_AS_ANOTHER]
    if only is None:
        return runs
    chosen = [text.split(":") for text in only]
    unknown = sorted({c[0] for c in chosen} - set(METHODS))
    if unknown:
        raise SystemExit(f"--only: no method {unknown}; there are {sorted(METHODS)}")
    return [r for r in runs if any([str(v) for v in r][: len(c)] == c for c in chosen)]


def main() -> int:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="METHOD[:NEGATIVES[:SEED]]")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="print the tables of what is there")
    parser.add_argument("--tune", action="store_true", help="ABMIL alone, on other seeds")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.tune:
        tune(args.results)
        return 0
    for name, negatives, seed in [] if args.report else _wanted(args.only):
        if _finished(name, negatives, seed, args.results) is None:
            result = run(name, negatives, seed, args.results)
            print(f"{name} 1:{negatives} seed {seed}: {tables.told(result)}", flush=True)
    found = [_finished(*r, args.results) for r in _wanted(None)]
    results = [result for result in found if result is not None]
    print(tables.markdown(results))
    print(f"picture: {save_figure(tables.figure(results), args.results / 'differences.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
