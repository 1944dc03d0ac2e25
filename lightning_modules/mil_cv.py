"""Cross-validation of a MIL recipe on one npz file of bags or one table of slides.

Every fold is a training run of its own with the recipe's model, optimizer, schedule, batch size and
number of steps: new weights, features standardised by its own training bags, and random numbers
that depend on (seed, repeat, fold) alone. Test folds choose nothing, neither step nor threshold.
Folds share nothing, so they are divided over processes.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from datamodules.bag_file import read_bag_file
from datamodules.bag_samplers import BatchPlan
from datamodules.bags import MILDataModule
from datamodules.feature_files import FeatureKeys
from datamodules.feature_set import FeatureFolder, FeatureSet
from evaluation.cross_validation import FoldSummary, summarise_folds
from lightning_modules.config_files import check_config_file
from lightning_modules.errors import user_message
from lightning_modules.mil import MILModule
from lightning_modules.mil_folds import BagSet, FoldRecipe, FoldResult, run_fold
from lightning_modules.restore import LINKS, place, plain
from lightning_modules.staged_runs import staged_class
from structures import BadDataPolicy, MILTask, Problem

# Options of the trainer that don't change what a fold learns.
_NEUTRAL = {
    "accelerator",
    "callbacks",
    "check_val_every_n_epoch",
    "devices",
    "enable_checkpointing",
    "enable_progress_bar",
    "log_every_n_steps",
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
        notes: what of the arguments and the recipe does not apply to these bags.
        problems: of the bags that were left out.
    """

    metrics: dict[str, FoldSummary]
    folds: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    protocol: str
    seconds: float
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def fold_numbers(self) -> list[tuple[int, int]]:
        """(repeat, fold) of each value in the summaries' ``folds``."""
        rows = enumerate(self.folds)
        return [(repeat, int(fold)) for repeat, row in rows for fold in np.unique(row)]


class BagFiles(NamedTuple):
    """Which bags are read.

    Attributes:
        data: an npz file, or a CSV of slides.
        features: folder of the slides' features, None for the recipe's or ``features`` beside
            the CSV.
        bad_data: what becomes of faulty bags, None for what the recipe says.
    """

    data: Path
    features: Path | None = None
    bad_data: BadDataPolicy | None = None


def cross_validate(
    config: Path,
    data: Path | BagFiles,
    num_folds: int | None = None,
    repeats: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> CrossValidation:
    """Cross-validate a recipe on an npz file of bags or a table of slides, on the CPU.

    Args:
        config: recipe of a `MILModule`, see `read_recipe`.
        data: npz file (`datamodules.bag_file`) or CSV (`datamodules.slide_table`).
        num_folds: folds to make where the file has none; None for 10.
        repeats: how many divisions into folds; None for 5, or as many as the file publishes.
        seed: of folds and training.
        progress: called with (folds done, folds in all) after each.
        workers: processes; the result does not depend on them. None for as many as torch would
            use threads.

    Raises:
        ValueError: the recipe or the file is wrong, or its folds have fewer repeats.
    """
    start = time.perf_counter()
    files = data if isinstance(data, BagFiles) else BagFiles(data)
    recipe, bags = _inputs(config, files)
    recipe.plan.check_classes(bags.num_classes)
    if (bags.labels < 0).any():
        raise ValueError(f"{bags.path}: bags without labels cannot be cross-validated; add them")
    notes = list(_notes(bags, recipe, num_folds, repeats))
    published = 0 if bags.published_folds is None else len(bags.published_folds)
    repeats = (min(5, published) if published else 5) if repeats is None else repeats
    if repeats < 1 or seed < 0:
        raise ValueError(f"need repeats >= 1 and seed >= 0, got {repeats} and {seed}")
    count = 10 if num_folds is None else num_folds
    folds = np.stack([bags.folds(count, repeat, seed) for repeat in range(repeats)])
    jobs = [(repeat, int(fold)) for repeat in range(repeats) for fold in np.unique(folds[repeat])]
    tasks = [_Task(config, files, folds[r], (seed, r, k)) for r, k in jobs]
    results: dict[tuple[int, int], FoldResult] = {}
    for job, result in zip(jobs, _results(tasks, workers), strict=True):
        results[job] = result
        if progress is not None:
            progress(len(results), len(jobs))
    classes = results[jobs[0]].probabilities.shape[1:]
    probabilities = np.zeros((*folds.shape, *classes))
    for (repeat, _), result in results.items():
        probabilities[repeat, result.test] = result.probabilities
    thresholds = {job: result.threshold for job, result in results.items()}
    metrics = summarise_folds(bags.labels, probabilities, folds, bags.task, thresholds)
    origin = "published" if published else f"stratified, seed {seed}"
    origin += ", by patient" if bags.groups and not published else ""
    length = _length(recipe) + (" each" if recipe.first is None else " in each of two stages")
    protocol = f"{len(jobs)} folds in {repeats} repeats ({origin}), {length}"
    seconds = time.perf_counter() - start
    return CrossValidation(
        metrics, folds, probabilities, protocol, seconds, tuple(notes), bags.problems
    )


def _length(recipe: FoldRecipe) -> str:
    limits = {"steps": recipe.max_steps, "epochs": recipe.max_epochs}
    return " or ".join(f"{limit} {name}" for name, limit in limits.items() if limit is not None)


def _notes(
    bags: BagSet, recipe: FoldRecipe, num_folds: int | None, repeats: int | None
) -> Iterator[str]:
    """Yield what of the user's wishes does not apply to these bags."""
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


@dataclass(frozen=True, slots=True)
class _Task:
    """One fold, in a form that reaches another process."""

    config: Path
    files: BagFiles
    folds: npt.NDArray[np.int64]
    key: tuple[int, int, int]


def _results(tasks: Sequence[_Task], workers: int | None) -> Iterator[FoldResult]:
    """Yield the result of each task in order."""
    workers = min(workers or torch.get_num_threads(), len(tasks))
    if workers == 1:
        yield from (_run_task(task) for task in tasks)
        return
    # One thread a process, as torch's own loader workers have: matrices are small here.
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(_run_task, tasks)


def _run_task(task: _Task) -> FoldResult:
    recipe, bags = _inputs_once(task.config, task.files)
    return run_fold(bags, task.folds, recipe, task.key)


def _inputs(config: Path, files: BagFiles) -> tuple[FoldRecipe, BagSet]:
    """Read both anew and keep them for the tasks of this process and of those it starts."""
    _inputs_once.cache_clear()
    return _inputs_once(config, files)


@functools.cache  # read once by each process
def _inputs_once(config: Path, files: BagFiles) -> tuple[FoldRecipe, BagSet]:
    settings = _settings(config, _sections(config)["data"])
    recipe = read_recipe(config)
    policy = files.bad_data or settings.get("bad_data", "error")
    if files.data.suffix.lower() != ".csv":
        return recipe, read_bag_file(files.data, bad_data=policy)
    names = ("features_key", "coords_key")
    keys = [settings.get(name, default) for name, default in zip(names, FeatureKeys(), strict=True)]
    by_patient = settings.get("bag", "slide") == "patient"
    place = FeatureFolder(_folder(files, settings), FeatureKeys(*keys), by_patient)
    named, task = settings.get("class_names"), settings.get("task")
    return recipe, FeatureSet(files.data, place, named, task, policy)


def _folder(files: BagFiles, settings: Mapping[str, Any]) -> Path | None:
    """Return where features lie: as told, beside the table (None), or where the recipe says."""
    named = settings.get("features")
    if files.features is not None or named is None or (files.data.parent / "features").is_dir():
        return files.features
    return Path(named)


def read_recipe(config: Path) -> FoldRecipe:
    """Read what cross-validation follows of a recipe of `train.py`.

    That is the model with optimizer and schedule; ``batch_size``, ``standardise``, ``clip``,
    ``val_fraction``, ``sampler``, ``class_weights``, ``token_budget`` and ``max_instances`` of the
    data; ``max_steps``, ``max_epochs``, ``gradient_clip_val``, ``accumulate_grad_batches`` of the
    trainer.

    Raises:
        ValueError: the file is missing, is no recipe of a `MILModule` with a number of steps or
            epochs, or asks the trainer for something that cross-validation does not do.
    """
    sections = _sections(config)
    trainer, settings = sections["trainer"], _settings(config, sections["data"])
    limits = {name: trainer.get(name) for name in ("max_steps", "max_epochs")}
    limits = {name: None if limit in (None, -1) else limit for name, limit in limits.items()}
    followed = {*limits, "gradient_clip_val", "accumulate_grad_batches"}
    unknown = sorted(set(trainer) - _NEUTRAL - followed)
    if unknown or not any(limits.values()):
        raise ValueError(
            f"{config}: cross-validation trains for trainer.max_steps or max_epochs and does not "
            f"follow {unknown or 'a recipe without them'}"
        )
    accumulate = trainer.get("accumulate_grad_batches", 1)
    counts = limits | {"accumulate_grad_batches": accumulate}
    for name, limit in counts.items():
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ValueError(f"{config}: trainer.{name} must be a positive number, got {limit!r}")
    planned = ("batch_size", "sampler", "class_weights", "token_budget", "max_instances")
    plan = {name: settings[name] for name in planned if name in settings}
    if plan.get("class_weights") is not None:
        plan["class_weights"] = tuple(plan["class_weights"])
    first = _first_stage(config, sections["model"])
    return FoldRecipe(
        build=_builder(sections["model"]),
        first=None if first is None else _builder(first),
        plan=BatchPlan(**plan),
        clip_norm=trainer.get("gradient_clip_val"),
        accumulate=accumulate,
        standardise=settings.get("standardise", True),
        clip=settings.get("clip"),
        val_fraction=settings.get("val_fraction", 0.2),
        max_steps=limits["max_steps"],
        max_epochs=limits["max_epochs"],
    )


def _first_stage(config: Path, model: dict[str, Any]) -> dict[str, Any] | None:
    """Return the model of the first of two stages, None where there is none."""
    staged = staged_class(model)
    if staged is None:
        return None
    argument = staged.first_stage_argument
    if (model.get("init_args") or {}).get(argument) is not None:
        raise ValueError(
            f"{config}: {argument} may have seen the test bags of a fold; leave it out, and each "
            "fold trains its own"
        )
    return staged.first_stage(model)


def _builder(model: dict[str, Any]) -> Callable[[int, int, MILTask], MILModule]:
    from jsonargparse import ArgumentParser

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

    return build


def _settings(config: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked arguments of a recipe's data, defaults included, without its file."""
    from jsonargparse import ArgumentError, ArgumentParser

    files = {"file", "table"}
    given = {k: v for k, v in (data.get("init_args") or {}).items() if k not in files}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MILDataModule, "data", skip=files, required=True)
    try:
        parsed = parser.parse_object({"data": {**data, "init_args": given}})
    except ArgumentError as error:
        raise ValueError(f"{config}: {user_message(error)}") from None
    settings: dict[str, Any] = plain(parsed.data.init_args)
    return settings


def _sections(config: Path) -> dict[str, dict[str, Any]]:
    """Return model, data and trainer of a recipe; each may be the name of a file beside it."""
    recipe, result = check_config_file(config), {}
    for name in ("model", "data", "trainer"):
        section = recipe.get(name)
        if isinstance(section, str):
            section = check_config_file(config.parent / section)
        if not isinstance(section, dict):
            raise ValueError(f"{config}: a recipe needs the section '{name}'")
        result[name] = section
    return result
