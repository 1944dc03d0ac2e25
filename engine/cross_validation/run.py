"""Cross-validation of a MIL recipe on one npz file of bags or one table of slides.

Every fold is a separate training run with the recipe's model, optimizer, schedule, batch size and
number of steps. It has new weights, features standardised by its own training bags, and random
numbers that depend only on (seed, repeat, fold). Test folds select neither a step nor a threshold.
Folds are independent of each other, so they are distributed over processes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from datamodules.mil.feature_set import FeatureFolder, FeatureSet
from datamodules.mil.npz_file import read_bag_file
from engine.config.recipe import Recipe
from engine.cross_validation.folds import BagSet, FoldRecipe, FoldResult, FoldTask, run_fold
from engine.cross_validation.recipe import data_settings, read_recipe
from engine.cross_validation.together import run_folds
from evaluation.mil.cross_validation import FoldSummary, summarise_folds
from formats.features import FeatureKeys
from structures import BadDataPolicy, Problem


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """A finished cross-validation of B bags in R repeats.

    Attributes:
        metrics: one summary per metric.
        folds: (R, B) test fold of each bag.
        probabilities: (R, B) or (R, B, C), each from the model that did not train on the bag.
        protocol: description of the folds and the training length.
        training: whether the folds were trained together, and the reason if not.
        seconds: wall time.
        notes: arguments and recipe settings that do not apply to these bags.
        problems: problems of the bags that were left out.
    """

    metrics: dict[str, FoldSummary]
    folds: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    protocol: str
    training: str
    seconds: float
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def fold_numbers(self) -> list[tuple[int, int]]:
        """(repeat, fold) of each value in the summaries' ``folds``."""
        rows = enumerate(self.folds)
        return [(repeat, int(fold)) for repeat, row in rows for fold in np.unique(row)]


class BagInputs(NamedTuple):
    """Files of the bags to read.

    Attributes:
        data: an npz file, or a CSV of slides.
        features: folder of the slides' features; None for the recipe's folder or ``features`` next
            to the CSV.
        bad_data: treatment of faulty bags; None for the recipe's.
    """

    data: Path
    features: Path | None = None
    bad_data: BadDataPolicy | None = None


def cross_validate(
    config: Path | Recipe,
    data: Path | BagInputs,
    num_folds: int | None = None,
    repeats: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    *,
    together: bool = True,
) -> CrossValidation:
    """Cross-validate a recipe on an npz file of bags or a table of slides, on the CPU.

    Args:
        config: recipe of a `MILModule`, see `read_recipe`.
        data: npz file (`datamodules.mil.npz_file`) or CSV (`datamodules.mil.slide_table`).
        num_folds: number of folds to make if the file has none; None for 10.
        repeats: number of divisions into folds; None for 5, or fewer if the file has fewer.
        seed: seed of the folds and the training.
        progress: called with (folds done, total folds) after each fold.
        workers: number of processes, which changes the result only by rounding errors; None for
            torch's number of threads.
        together: whether to train folds together if possible, see `run_folds`.

    Raises:
        ValueError: the recipe or the file is wrong, or the file has fewer repeats.
    """
    start = time.perf_counter()
    files = data if isinstance(data, BagInputs) else BagInputs(data)
    recipe, bags = _inputs(Recipe.of(config), files)
    recipe.plan.check_classes(bags.num_classes)
    if (bags.labels < 0).any():
        raise ValueError(f"{bags.path}: bags without labels cannot be cross-validated; add them")
    notes = tuple(_notes(bags, recipe, num_folds, repeats))
    folds = _divisions(bags, num_folds, repeats, seed)
    jobs = [(repeat, int(fold)) for repeat, row in enumerate(folds) for fold in np.unique(row)]
    reasons = [] if together else ["as asked for"]
    if together:
        run_folds(bags, [], recipe, reasons.append)
    work = _Work(Recipe.of(config), files, together=not reasons)
    tasks = [(folds[repeat], (seed, repeat, fold)) for repeat, fold in jobs]
    results: dict[int, FoldResult] = {}
    for numbers, found, why in _results(work, tasks, workers):
        reasons += why
        for number, result in zip(numbers, found, strict=True):
            results[number] = result
            if progress is not None:
                progress(len(results), len(jobs))
    thresholds = {job: results[number].threshold for number, job in enumerate(jobs)}
    probabilities = _collected(folds, [(jobs[n][0], result) for n, result in results.items()])
    return CrossValidation(
        metrics=summarise_folds(bags.labels, probabilities, folds, bags.task, thresholds),
        folds=folds,
        probabilities=probabilities,
        protocol=f"{len(jobs)} folds in {len(folds)} repeats {_protocol(bags, recipe, seed)}",
        training=f"folds trained one by one: {reasons[0]}" if reasons else "folds trained together",
        seconds=time.perf_counter() - start,
        notes=notes,
        problems=bags.problems,
    )


def _collected(
    folds: npt.NDArray[np.int64], results: Iterable[tuple[int, FoldResult]]
) -> npt.NDArray[np.float64]:
    """Return the (R, B) or (R, B, C) probabilities from the (repeat, result) of every fold."""
    found = list(results)
    probabilities = np.zeros((*folds.shape, *found[0][1].probabilities.shape[1:]))
    for repeat, result in found:
        probabilities[repeat, result.test] = result.probabilities
    return probabilities


def _divisions(
    bags: BagSet, num_folds: int | None, repeats: int | None, seed: int
) -> npt.NDArray[np.int64]:
    """Return (R, B) test folds."""
    published = 0 if bags.published_folds is None else len(bags.published_folds)
    repeats = (min(5, published) if published else 5) if repeats is None else repeats
    if repeats < 1 or seed < 0:
        raise ValueError(f"need repeats >= 1 and seed >= 0, got {repeats} and {seed}")
    count = 10 if num_folds is None else num_folds
    return np.stack([bags.folds(count, repeat, seed) for repeat in range(repeats)])


def _protocol(bags: BagSet, recipe: FoldRecipe, seed: int) -> str:
    """Return a description of the origin of the folds and the training length."""
    made = bags.published_folds is None
    origin = f"stratified, seed {seed}" if made else "published"
    origin += ", by patient" if bags.groups and made else ""
    stages = " each" if recipe.first is None else " in each of two stages"
    return f"({origin}), {_length(recipe)}{stages}"


def _length(recipe: FoldRecipe) -> str:
    limits = {"steps": recipe.max_steps, "epochs": recipe.max_epochs}
    return " or ".join(f"{limit} {name}" for name, limit in limits.items() if limit is not None)


def _notes(
    bags: BagSet, recipe: FoldRecipe, num_folds: int | None, repeats: int | None
) -> Iterator[str]:
    """Yield notes on arguments and recipe settings that do not apply to these bags."""
    if bags.published_folds is not None:
        published = len(bags.published_folds)
        if num_folds is not None:
            yield f"{bags.path} has published folds: --folds {num_folds} is not used"
        if repeats is None and published < 5:
            yield f"{bags.path} has published folds in {published} repeat(s): all of them are used"
    elif bags.named_splits:
        yield f"{bags.path}: its column split is not used, folds are made of all slides"
    if isinstance(bags, FeatureSet):
        if recipe.clip is not None:
            yield "standardise and clip of the recipe are for npz files: slides stay as they are"
    elif recipe.plan.max_instances is not None:
        yield "max_instances of the recipe is for tables of slides: bags of the file stay whole"


class _Work(NamedTuple):
    """Picklable inputs that all folds share."""

    config: Recipe
    files: BagInputs
    together: bool


_Done = tuple[list[int], list[FoldResult], list[str]]  # numbers of tasks, results, reasons


def _results(work: _Work, tasks: Sequence[FoldTask], workers: int | None) -> Iterator[_Done]:
    """Yield the results of groups of tasks, in order unless folds are trained together."""
    workers = min(workers or torch.get_num_threads(), len(tasks))
    numbers = [[number] for number in range(len(tasks))]
    if work.together:
        # Sort by number of training bags: only folds with equal numbers can be trained together.
        sizes = [int((folds != key[2]).sum()) for folds, key in tasks]
        order = np.argsort(sizes, kind="stable")
        numbers = [part.tolist() for part in np.array_split(order, workers)]
    parts = [[tasks[number] for number in part] for part in numbers]
    run = functools.partial(_run_tasks, work)
    if workers == 1:
        yield from ((n, *run(part)) for n, part in zip(numbers, parts, strict=True))
        return
    # One thread per process, as in torch's loader workers: the matrices are small.
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        done = pool.map(run, parts)
        yield from ((n, *results) for n, results in zip(numbers, done, strict=True))


def _run_tasks(work: _Work, tasks: Sequence[FoldTask]) -> tuple[list[FoldResult], list[str]]:
    recipe, bags = _inputs_once(work.config, work.files)
    reasons: list[str] = []
    if work.together:
        return run_folds(bags, tasks, recipe, reasons.append), reasons
    return [run_fold(bags, folds, recipe, key) for folds, key in tasks], []


def _inputs(config: Recipe, files: BagInputs) -> tuple[FoldRecipe, BagSet]:
    """Read both again and cache them for the tasks of this process and its child processes."""
    _inputs_once.cache_clear()
    return _inputs_once(config, files)


@functools.cache  # read once by each process
def _inputs_once(config: Recipe, files: BagInputs) -> tuple[FoldRecipe, BagSet]:
    settings, recipe = data_settings(config), read_recipe(config)
    policy = files.bad_data or settings.get("bad_data", "error")
    if files.data.suffix.lower() != ".csv":
        return recipe, read_bag_file(files.data, bad_data=policy)
    known: dict[str, str] = FeatureKeys()._asdict()
    keys: list[str] = [settings.get(f"{name}_key", default) for name, default in known.items()]
    by_patient = settings.get("bag", "slide") == "patient"
    place = FeatureFolder(_folder(files, settings), FeatureKeys(*keys), by_patient)
    named, task, columns = (settings.get(n) for n in ("class_names", "task", "label_columns"))
    return recipe, FeatureSet(files.data, place, named, task, policy, columns)


def _folder(files: BagInputs, settings: Mapping[str, Any]) -> Path | None:
    """Return the feature folder: the given one, the recipe's, or None for next to the table."""
    named = settings.get("features")
    if files.features is not None or named is None or (files.data.parent / "features").is_dir():
        return files.features
    return Path(named)
