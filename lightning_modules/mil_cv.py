"""Cross-validation of a MIL recipe on one file of bags.

Every fold is a training run of its own with the recipe's model, optimizer, schedule, batch size and
number of steps: new weights, features standardised by its own training bags, and random numbers
that depend on (seed, repeat, fold) alone. Test folds choose nothing, neither step nor threshold.
Folds share nothing, so they are divided over processes.
"""

from __future__ import annotations

import copy
import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml

from datamodules.bag_file import BagFile, read_bag_file
from datamodules.bags import MILDataModule
from datamodules.tabular_bags import TabularBagsDataModule, facts_of
from evaluation.cross_validation import FoldSummary, summarise_folds
from lightning_modules.mil import MILModule
from lightning_modules.mil_folds import FoldRecipe, FoldResult, run_fold
from lightning_modules.restore import LINKS, place
from structures import MILTask

# Options of the trainer that don't change what a fold learns.
_NEUTRAL = {
    "accelerator",
    "callbacks",
    "check_val_every_n_epoch",
    "devices",
    "enable_checkpointing",
    "enable_progress_bar",
    "log_every_n_steps",
    "max_epochs",
    "num_sanity_val_steps",
    "val_check_interval",
}


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """A finished cross-validation of B bags in R repeats.

    Attributes:
        metrics: a summary a metric.
        folds: (R, B) test fold of each bag.
        probabilities: (R, B) or (R, B, C), each from the model that did not train on the bag.
        protocol: what was done, in words.
        seconds: wall time.
    """

    metrics: dict[str, FoldSummary]
    folds: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    protocol: str
    seconds: float


def cross_validate(
    config: Path,
    data: Path,
    num_folds: int = 10,
    repeats: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> CrossValidation:
    """Cross-validate a recipe on an npz file of bags, on the CPU.

    Args:
        config: recipe of a `MILModule`, see `read_recipe`.
        data: npz file, see `datamodules.bag_file`.
        num_folds: folds to make where the file has none.
        repeats: how many divisions into folds.
        seed: of folds and training.
        progress: called with (folds done, folds in all) after each.
        workers: processes; the result does not depend on them. None for as many as torch would
            use threads.

    Raises:
        ValueError: the recipe or the file is wrong, or its folds have fewer repeats.
    """
    start = time.perf_counter()
    recipe, bags = read_recipe(config), read_bag_file(data)
    if repeats < 1 or seed < 0:
        raise ValueError(f"need repeats >= 1 and seed >= 0, got {repeats} and {seed}")
    folds = np.stack([bags.folds(num_folds, repeat, seed) for repeat in range(repeats)])
    jobs = [(repeat, int(fold)) for repeat in range(repeats) for fold in np.unique(folds[repeat])]
    tasks = [_Task(config, data, folds[r], (seed, r, k)) for r, k in jobs]
    results: dict[tuple[int, int], FoldResult] = {}
    for job, result in zip(jobs, _results(tasks, recipe, bags, workers), strict=True):
        results[job] = result
        if progress is not None:
            progress(len(results), len(jobs))
    classes = results[jobs[0]].probabilities.shape[1:]
    probabilities = np.zeros((*folds.shape, *classes))
    for (repeat, _), result in results.items():
        probabilities[repeat, result.test] = result.probabilities
    thresholds = {job: result.threshold for job, result in results.items()}
    metrics = summarise_folds(bags.labels, probabilities, folds, facts_of(bags)[1], thresholds)
    origin = f"stratified, seed {seed}" if bags.published_folds is None else "published"
    protocol = f"{len(jobs)} folds in {repeats} repeats ({origin}), {recipe.max_steps} steps each"
    return CrossValidation(metrics, folds, probabilities, protocol, time.perf_counter() - start)


@dataclass(frozen=True, slots=True)
class _Task:
    """One fold, in a form that reaches another process."""

    config: Path
    data: Path
    folds: npt.NDArray[np.int64]
    key: tuple[int, int, int]


def _results(
    tasks: Sequence[_Task], recipe: FoldRecipe, bags: BagFile, workers: int | None
) -> Iterator[FoldResult]:
    """Yield the result of each task in order."""
    workers = min(workers or torch.get_num_threads(), len(tasks))
    if workers == 1:
        yield from (run_fold(bags, task.folds, recipe, task.key) for task in tasks)
        return
    # One thread a process, as torch's own loader workers have: matrices are small here.
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(_run_task, tasks)


def _run_task(task: _Task) -> FoldResult:
    recipe, bags = _inputs(task.config, task.data)
    return run_fold(bags, task.folds, recipe, task.key)


@functools.cache  # read once by each process, which lives for one cross-validation
def _inputs(config: Path, data: Path) -> tuple[FoldRecipe, BagFile]:
    return read_recipe(config), read_bag_file(data)


def read_recipe(config: Path) -> FoldRecipe:
    """Read what cross-validation follows of a recipe of `train.py`.

    That is the model with optimizer and schedule; ``batch_size``, ``standardise``, ``clip``
    and ``val_fraction`` of the data; ``max_steps`` and ``gradient_clip_val`` of the trainer.

    Raises:
        ValueError: the file is missing, is no recipe of a `MILModule` with a number of steps, or
            asks the trainer for something that cross-validation does not do.
    """
    from jsonargparse import ArgumentParser

    if not config.is_file():
        raise ValueError(f"{config}: no such recipe")
    try:
        raw = yaml.safe_load(config.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{config}: is no YAML file ({error})") from None
    model, data, trainer = (_section(config, raw, name) for name in ("model", "data", "trainer"))
    unknown = sorted(set(trainer) - _NEUTRAL - {"max_steps", "gradient_clip_val"})
    if unknown or "max_steps" not in trainer:
        raise ValueError(
            f"{config}: cross-validation trains for trainer.max_steps and does not follow "
            f"{unknown or 'a recipe without it'}"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MILModule, "model")

    @functools.cache  # checking a configuration takes longer than a hundred steps
    def parsed(num_classes: int, in_features: int, task: MILTask) -> Any:
        filled = copy.deepcopy(model)
        facts = {"num_classes": num_classes, "in_features": in_features, "task": task}
        for fact, value in facts.items():
            place(filled, LINKS[fact], value)
        return parser.parse_object({"model": filled})

    def build(num_classes: int, in_features: int, task: MILTask) -> MILModule:
        module: MILModule = parser.instantiate_classes(parsed(num_classes, in_features, task)).model
        return module

    settings = data.get("init_args", {})
    known = set(inspect.signature(TabularBagsDataModule.__init__).parameters)
    known |= set(inspect.signature(MILDataModule.__init__).parameters)
    misspelt = sorted(set(settings) - known)
    if misspelt or not isinstance(settings.get("batch_size", 1), int):
        raise ValueError(
            f"{config}: data has unknown arguments {misspelt}, or batch_size is no whole number"
        )
    names = ("standardise", "clip", "val_fraction")
    return FoldRecipe(
        build=build,
        batch_size=settings.get("batch_size", 1),
        max_steps=int(trainer["max_steps"]),
        clip_norm=trainer.get("gradient_clip_val"),
        **{name: settings[name] for name in names if name in settings},
    )


def _section(config: Path, raw: Any, name: str) -> dict[str, Any]:
    """Return a section of a recipe; it may be the name of a file beside the recipe."""
    section = raw.get(name) if isinstance(raw, Mapping) else None
    if isinstance(section, str):
        section = yaml.safe_load((config.parent / section).read_text())
    if not isinstance(section, dict):
        raise ValueError(f"{config}: a recipe needs the section '{name}'")
    return section
