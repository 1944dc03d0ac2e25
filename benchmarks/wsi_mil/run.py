"""Comparison of AEM, MHIM and SC-MIL with their baselines on synthetic whole slides.

Run `python benchmarks/wsi_mil/run.py --workers 2`. It trains all runs without a result in
`runs/wsi_mil`, which has one JSON file per run, and prints the tables; an interrupted command can
be repeated. Delete the folder after a change of code. `--only METHOD[:NEGATIVES[:SEED]] ...` trains
some runs and the first stages that they need, `--report` trains nothing. `--tune` runs ABMIL, DSMIL
and weights of AEM on separate seeds, which were used to choose difficulty, learning rate and weight
(A177, A383). Every process uses one thread, and seconds are processor time.

Every run has the world of its seed, 60 training bags (half of them positive, or one in eleven) and
25 epochs. It is scored on the 40 test bags and on 100 more bags of the same world (50 per class),
which give a less noisy estimate (A179). The generator is in `bags.py`, the recipes in `methods.py`,
the measures in `measures.py`, and intervals, tables and figure in `tables.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.wsi_mil import measures, tables
from benchmarks.wsi_mil.bags import COUNTS, Slides, SlideSet
from benchmarks.wsi_mil.methods import (
    AEM_WEIGHTS,
    METHODS,
    build,
    fold_recipe,
    settings_of,
    slides_of,
)
from datamodules.mil.chunks import ChunkedBags
from engine.cross_validation.folds import Fold, train_fold
from evaluation.report.plots import save_figure
from formats.files import atomic_write

Job = tuple[str, int, int]  # method, negative bags per positive bag, seed

FOLDER = Path("runs/wsi_mil")
SEEDS, TUNING_SEEDS = (1, 2, 3, 4, 5), (101, 102, 103)
RATIOS = (1, 10)  # negative bags per positive bag
# The main comparisons come first, at the ratio for which the method is meant.
ORDER = (
    ("balanced", "sc_mil", 10), ("abmil", "aem", 1), ("plain", "mhim", 1), ("abmil", "aem", 10),
    ("plain", "mhim", 10), ("weighted", "shuffled", 10), ("balanced", "sc_mil", 1),
    ("shuffled", "weighted", 1), ("twice", "twice", 1), ("twice", "twice", 10),
    ("plain_v2", "mhim_v2", 1), ("plain_dsmil", "mhim_dsmil", 1), ("ins_subset", "ins", 1),
    ("plain_v2", "mhim_v2", 10), ("plain_dsmil", "mhim_dsmil", 10),
)  # fmt: skip
TUNED = (
    "abmil", *(f"aem_{weight}" for weight in AEM_WEIGHTS), "plain", "plain_v2", "plain_dsmil",
    "balanced",
)  # fmt: skip
# With balanced classes, all class weights are 1.
SAME_AS_ANOTHER = {("weighted", 1)}


@functools.lru_cache(maxsize=5)
def slide_set(seed: int, split: Any, negatives: int, slides: Slides) -> SlideSet:
    """Return the slides of a split, cached between runs."""
    return SlideSet(seed, split, negatives, slides)


def train(name: str, negatives: int, seed: int, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the trained module of a method and measures taken during training."""
    method, recipe = METHODS[name], fold_recipe(name, folder / "recipes")
    slides = slides_of(name, negatives)
    bags = slide_set(seed, "train", negatives, slides)
    torch.manual_seed(seed)
    module = build(recipe, bags.in_features)
    seen: dict[str, Any] = {}
    if method.begins_with is not None:
        # Needed only if the module has drawn random numbers before building the student.
        torch.manual_seed(seed)
        first = build(fold_recipe(method.begins_with, folder / "recipes"), bags.in_features)
        module.model.student.load_state_dict(first.model.state_dict())
        weights = _weights((method.begins_with, negatives, seed), folder)
        module.receive(torch.load(weights, weights_only=True))
        seen["masking_begin"] = measures.masking(module, bags, progress=0.0)
    everything = np.ones(len(bags.labels), dtype=bool)
    read = bags.reader(recipe.plan.max_instances, seed)
    chunk = recipe.plan.chunk_instances
    chunks = None if chunk is None else ChunkedBags(bags, chunk, seed)
    fold = Fold(module, ~everything, ~everything, list(range(everything.size)), read, seed, chunks)
    start = time.process_time()
    train_fold(fold, bags, recipe)
    seen["seconds"] = time.process_time() - start
    module.eval()
    if method.begins_with is not None:  # not 1.0: the high mask is almost empty at the last step
        seen["masking_end"] = measures.masking(module, bags, progress=0.5)
    return module, seen


def run(name: str, negatives: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train and measure one method on one seed, and write the result."""
    module, seen = train(name, negatives, seed, folder)
    result = (
        _identity(name, negatives) | {"method": name, "negatives": negatives, "seed": seed} | seen
    )
    start, slides = time.process_time(), slides_of(name, negatives)
    training = slide_set(seed, "train", negatives, slides)
    large, whole = slide_set(seed, "large", 1, slides), measures.predict(module, training)
    result["train"] = {"labels": whole["labels"], "logits": whole["logits"]}
    result["test"] = measures.predict(module, slide_set(seed, "test", negatives, slides))
    result["large"] = measures.predict(module, large)
    result["contrast"] = [measures.contrast(module, bags) for bags in (training, large)]
    result["seconds_measuring"] = time.process_time() - start
    job = (name, negatives, seed)
    if METHODS[name].plain:
        with atomic_write(_weights(job, folder)) as file:
            torch.save(module.model.state_dict(), file)
    with atomic_write(_file(job, folder)) as file:
        file.write(json.dumps(result).encode())
    return result


def _identity(name: str, negatives: int) -> dict[str, Any]:
    """Return the settings that a result depends on in addition to method, ratio and seed."""
    slides = dataclasses.asdict(slides_of(name, negatives)) | {"counts": COUNTS}
    kept = {"slides": slides, "recipe": settings_of(name)}
    identity: dict[str, Any] = json.loads(json.dumps(kept))
    return identity


def _file(job: Job, folder: Path) -> Path:
    return folder / "{}-{}-{}.json".format(*job)


def _weights(job: Job, folder: Path) -> Path:
    """Return the path of the weights of a first stage."""
    return _file(job, folder).with_suffix(".pt")


def _finished(job: Job, folder: Path) -> dict[str, Any] | None:
    """Return the stored result, or None if it is missing or has other settings."""
    file = _file(job, folder)
    if not file.is_file():
        return None
    result: dict[str, Any] = json.loads(file.read_text())
    return result if _identity(*job[:2]).items() <= result.items() else None


def _first_stage(job: Job) -> Job | None:
    name, negatives, seed = job
    first = METHODS[name].begins_with
    return None if first is None else (first, negatives, seed)


def _missing(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """Return the runs to train, each after its first stage."""
    found: list[Job] = []
    for job in (job for job in jobs if _finished(job, folder) is None):
        first = _first_stage(job)
        if first is not None and not (
            _finished(first, folder) and _weights(first, folder).exists()
        ):
            found.append(first)
        found.append(job)
    return list(dict.fromkeys(found))


def run_missing(jobs: Sequence[Job], folder: Path, workers: int) -> Iterator[dict[str, Any]]:
    """Train the runs without a result, each after its first stage, and yield the results."""
    waiting, running = _missing(jobs, folder), dict[Future[dict[str, Any]], Job]()
    if workers == 1:
        yield from (run(*job, folder) for job in waiting)
        return
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while waiting or running:
            unfinished = {*waiting, *running.values()}
            ready = [job for job in waiting if _first_stage(job) not in unfinished]
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                running[pool.submit(run, *job, folder)] = job
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                del running[done]
                yield done.result()


def _summary(result: dict[str, Any]) -> str:
    name, negatives, seed = (result[key] for key in ("method", "negatives", "seed"))
    return f"{name} 1:{negatives} seed {seed}: {tables.summary(result)}"


def _tuning() -> list[Job]:
    """Return the runs on the tuning seeds."""
    return [(m, n, s) for m in TUNED for n in RATIOS for s in TUNING_SEEDS]


def _reported() -> list[Job]:
    """Return the runs on the reported seeds, in order of execution."""
    # Runs that are compared are adjacent, so that an interruption leaves complete comparisons.
    pairs = [(pair, n, s) for *pair, n in ORDER for s in SEEDS if n in RATIOS]
    runs = [(m, n, s) for pair, n, s in pairs for m in dict.fromkeys(pair)]
    return [r for r in runs if r[:2] not in SAME_AS_ANOTHER]


def _wanted(runs: list[Job], only: list[str] | None) -> list[Job]:
    """Return those of the runs that are asked for."""
    if only is None:
        return runs
    chosen = [text.split(":") for text in only]
    unknown = sorted({c[0] for c in chosen} - set(METHODS))
    if unknown:
        raise SystemExit(f"--only: no method {unknown}; there are {sorted(METHODS)}")
    matching = [[r for r in runs if [str(v) for v in r][: len(c)] == c] for c in chosen]
    for text, found in zip(only, matching, strict=True):
        if not found:
            raise SystemExit(
                f"--only: {text} is not a run; ratios are {RATIOS}, seeds {SEEDS}, or "
                f"{TUNING_SEEDS} with --tune. weighted:1 is the same as shuffled:1, because "
                "weights of balanced classes are 1"
            )
    return [r for r in runs if any(r in found for found in matching)]


def main() -> int:
    """Train the missing runs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="METHOD[:NEGATIVES[:SEED]]")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--report", action="store_true", help="only print the tables")
    parser.add_argument("--tune", action="store_true", help="use the tuning seeds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    every = _tuning() if args.tune else _reported()
    jobs = _wanted(every, args.only)
    for result in () if args.report else run_missing(jobs, args.results, args.workers):
        print(_summary(result), flush=True)
    results = [found for job in every if (found := _finished(job, args.results)) is not None]
    print(tables.markdown(results))
    if args.tune:
        return 0
    print(f"image: {save_figure(tables.figure(results), args.results / 'differences.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
