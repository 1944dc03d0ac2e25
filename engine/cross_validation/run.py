"""Cross-validation of a MIL recipe on one npz file of bags or one table of slides.

Every fold is a separate training run with the recipe's model, optimizer, schedule, batch size and
number of steps. It has new weights, features standardised by its own training bags, and random
numbers that depend only on (seed, repeat, fold). Test folds select neither a step nor a threshold.
Folds are independent of each other, so they are distributed over processes or devices.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.fingerprint import fingerprint
from datamodules.mil.feature_set import FeatureSet
from datamodules.mil.features import FeatureBagsDataModule
from datamodules.mil.npz import TabularBagsDataModule
from datamodules.mil.npz_file import BagFile
from datamodules.mil.targets.strata import unlabelled
from engine.config.recipe import Recipe
from engine.cross_validation.checkpoints import data_arguments, fold_checkpoints
from engine.cross_validation.devices import FoldDevices
from engine.cross_validation.extras import Extras, external_predictions, problems_of
from engine.cross_validation.finished import FinishedFolds
from engine.cross_validation.fold import BagSet, FoldRecipe, FoldResult, FoldTask
from engine.cross_validation.inputs import BagInputs, bag_ids_of, class_names_of, read_inputs
from engine.cross_validation.nested.outer import Trained, Trainer
from engine.cross_validation.protocol import notes_of, protocol_of
from engine.cross_validation.recipe import (
    LAST,
    Choice,
    check_data_flags,
    read_devices,
    read_recipe,
)
from engine.cross_validation.target_folds import check_targets, target_folds
from engine.cross_validation.together import run_folds
from engine.cross_validation.workers import Work
from evaluation.mil.cross_validation import FoldSummary
from evaluation.mil.external import ExternalPredictions
from evaluation.mil.fold_predictions import FoldPredictions
from evaluation.targets.folds import FoldScores, TargetFolds, TimeOptions
from structures import Problem
from structures.tasks import CLASS_TASKS, has_classes

__all__ = ["BagInputs", "CrossValidation", "FoldFiles", "cross_validate", "read_recipe"]

_SLIDES_ONLY = (
    "max_instances", "num_workers", "features", "bag", "patient_label", "label_columns",
    "time_column", "event_column", "censorship_column",
    "cache_gib", "augmented", "features_key", "coords_key", "instance_labels_key",
)  # fmt: skip
_NPZ_ONLY = ("standardise", "clip")


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """A finished cross-validation of B bags in R repeats.

    Attributes:
        metrics: one summary per metric.
        folds: (R, B) test fold of each bag.
        probabilities: (R, B) or (R, B, C), each from the model that did not train on the bag; see
            `FoldResult`.
        protocol: description of the folds, the training length and the selection of weights.
        training: whether the folds were trained together, and the reason if not.
        seconds: wall time.
        predictions: predictions of all test bags with labels and thresholds, or those of times,
            values and grades by fold.
        device: devices that trained the folds.
        notes: arguments and recipe settings that do not apply to these bags.
        problems: problems of the bags that were left out.
        selected: which weights were selected in each fold, as plain values.
        details: further entries of the record, of times, values and grades.
        external: predictions of external sets by the models of all folds.
        nested: what each fold has chosen from a grid, as plain values.
    """

    metrics: dict[str, FoldSummary]
    folds: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    protocol: str
    training: str
    seconds: float
    predictions: FoldPredictions | TargetFolds
    device: str = "cpu"
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    selected: tuple[dict[str, Any], ...] = ()
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    external: tuple[ExternalPredictions, ...] = ()
    nested: tuple[dict[str, Any], ...] = ()

    @property
    def fold_numbers(self) -> list[tuple[int, int]]:
        """(repeat, fold) of each value in the summaries' ``folds``."""
        return fold_numbers(self.folds)


def fold_numbers(folds: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (repeat, fold) of each fold in (R, B) test folds, ordered by repeat."""
    rows = enumerate(folds)
    return [(repeat, int(fold)) for repeat, row in rows for fold in np.unique(row)]


class FoldFiles(NamedTuple):
    """Folders to write to during a cross-validation.

    Attributes:
        finished: folder of the results of finished folds, with which a killed run goes on; None
            to keep none. The caller removes it.
        checkpoints: folder of a checkpoint of each fold, or None.
    """

    finished: Path | None = None
    checkpoints: Path | None = None


def cross_validate(
    config: Path | Recipe,
    data: Path | BagInputs,
    num_folds: int | None = None,
    repeats: int | None = None,
    seed: int = 0,
    progress: Callable[[float, int], None] | None = None,
    workers: int | None = None,
    *,
    together: bool = True,
    choice: Choice = LAST,
    keep: FoldFiles = FoldFiles(),  # noqa: B008
    options: TimeOptions = TimeOptions(),  # noqa: B008
    extras: Extras = Extras(),  # noqa: B008
) -> CrossValidation:
    """Cross-validate a recipe on an npz file of bags or a table of slides.

    Args:
        config: recipe of a `MILModule`, see `read_recipe` and `read_devices`.
        data: npz file (`datamodules.mil.npz_file`) or CSV (`datamodules.mil.slide_table`).
        num_folds: number of folds to make if the file has none; None for 10.
        repeats: number of divisions into folds; None for 5, or fewer if the file has fewer.
        seed: seed of the folds and the training.
        progress: called with (folds done, total folds), also during a fold with its share.
        workers: number of processes on the processor, which changes the result only by rounding
            errors; None for ``trainer.devices`` or torch's number of threads.
        together: whether to train folds together if possible, see `run_folds`.
        choice: whether the last or the best weights of a fold predict its test bags.
        keep: folders to write to.
        options: how times are scored.
        extras: external sets to predict, and the grid of a nested cross-validation.

    Raises:
        ValueError: the recipe, a file or a number is wrong, or a folder is of another run.
    """
    start = time.perf_counter()
    given = _read(Recipe.of(config), data, choice, options)
    settings, files, devices, recipe, bags = given
    folds = _divisions(bags, num_folds, repeats, seed)
    tasks = [(folds[repeat], (seed, repeat, fold)) for repeat, fold in fold_numbers(folds)]
    check_targets(bags, tasks, recipe)
    sets = extras.check(settings, files, choice, bags, tasks)
    reasons = _reasons_apart(bags, recipe, devices) if together else ["as asked for"]
    together = together if extras.nested else not reasons
    work = Work(settings, files, choice, together, external=extras.external)
    work = _with_files(work, keep, recipe, bags, folds, seed, extras)
    trainer = Trainer(work, bags, devices, workers, _reasons_apart)
    trained = trainer.train(tasks, extras.nested, progress)
    trained = trained._replace(reasons=reasons + trained.reasons)
    notes = notes_of(settings, bags, recipe, num_folds, repeats)
    return dataclasses.replace(
        _result(given, folds, tasks, trained, options),
        protocol=protocol_of(bags, recipe, tasks) + extras.protocol(bags),
        seconds=time.perf_counter() - start,
        notes=(*notes, *_fallbacks(recipe, tasks, trained.results)),
        problems=(*bags.problems, *problems_of(sets)),
        external=external_predictions(extras.external, sets, bags, tasks, trained.results, options),
    )


class _Read(NamedTuple):
    settings: Recipe
    files: BagInputs
    devices: FoldDevices
    recipe: FoldRecipe
    bags: BagSet


def _read(settings: Recipe, data: Path | BagInputs, choice: Choice, options: TimeOptions) -> _Read:
    """Return everything that is read, after it was checked."""
    files = data if isinstance(data, BagInputs) else BagInputs(data)
    devices = read_devices(settings, slides=files.of_slides)
    recipe, bags = read_inputs(settings, files, choice)
    _check(settings, recipe, bags)
    options.check(bags.task)
    if recipe.selection is not None:
        recipe.selection.check_task(bags.task)
    return _Read(settings, files, devices, recipe, bags)


def _result(
    given: _Read,
    folds: npt.NDArray[np.int64],
    tasks: Sequence[FoldTask],
    trained: Trained,
    options: TimeOptions,
) -> CrossValidation:
    """Return the scores of trained folds."""
    results, reasons = trained.results, trained.reasons
    found, scored = _scored(given.bags, folds, tasks, results, options)
    return CrossValidation(
        metrics=scored.summary(),
        folds=folds,
        probabilities=_probabilities(folds, tasks, results),
        protocol="",
        training=f"folds trained one by one: {reasons[0]}" if reasons else "folds trained together",
        seconds=0.0,
        predictions=found,
        device=str(given.devices),
        selected=tuple(_selected(tasks, results)),
        details=scored.details() if isinstance(scored, FoldScores) else {},
        nested=tuple(trained.record),
    )


def _reasons_apart(bags: BagSet, recipe: FoldRecipe, devices: FoldDevices) -> list[str]:
    """Return why folds are trained one by one, or nothing if they can be trained together."""
    reasons: list[str] = []
    run_folds(bags, [], dataclasses.replace(recipe, device=devices.devices[0]), reasons.append)
    return reasons


def _selected(tasks: Sequence[FoldTask], results: Sequence[FoldResult]) -> Iterator[dict[str, Any]]:
    """Yield which weights of each fold were selected, for the record."""
    for (_, key), result in zip(tasks, results, strict=True):
        if result.selected is not None:
            yield {"repeat": key[1], "fold": key[2], **result.selected._asdict()}


def _fallbacks(
    recipe: FoldRecipe, tasks: Sequence[FoldTask], results: Sequence[FoldResult]
) -> Iterator[str]:
    """Yield a note for each fold whose weights another metric selected, see `Selection`."""
    for (_, (_, repeat, fold)), result in zip(tasks, results, strict=True):
        rule, found = recipe.selection, result.selected
        if rule is not None and found is not None and found.monitor != rule.monitor:
            yield (
                f"repeat {repeat}, fold {fold}: {rule.monitor} is not defined on its validation "
                f"bags, so {found.monitor} selected the weights"
            )


def _check(config: Recipe, recipe: FoldRecipe, bags: BagSet) -> None:
    recipe.plan.check_classes(bags.num_classes, named=not bags.targets.apply)
    nothing = unlabelled(bags.labels)
    if nothing.all() or (has_classes(bags.task) and nothing.any()):
        raise ValueError(f"{bags.path}: bags without labels cannot be cross-validated; add them")
    if isinstance(bags, BagFile):
        check_data_flags(config, _SLIDES_ONLY, "it is for tables of slides")
    else:
        check_data_flags(config, _NPZ_ONLY, "it is for npz files; slides stay as they are")


def _with_files(
    work: Work,
    keep: FoldFiles,
    recipe: FoldRecipe,
    bags: BagSet,
    folds: npt.NDArray[np.int64],
    seed: int,
    extras: Extras,
) -> Work:
    """Return the work with the folders to write to, which are begun or gone on with."""
    goes_on = False
    if keep.finished is not None:
        finished = FinishedFolds(keep.finished)
        goes_on = finished.begin(
            _settings(work, recipe, bags, folds, seed)
            | extras.settings(work.config, work.files, bags)
        )
        work = work._replace(finished=finished)
    if keep.checkpoints is not None:
        if not goes_on and any(keep.checkpoints.glob("*.ckpt")):
            raise ValueError(
                f"--save-checkpoints {keep.checkpoints} has checkpoints of an earlier run; name a "
                "new folder"
            )
        keep.checkpoints.mkdir(parents=True, exist_ok=True)  # an error now rather than after a fold
        divisions = (int(folds.max()) + 1, seed)
        checkpoints = fold_checkpoints(
            keep.checkpoints, work.config, work.files, bags, recipe, work.choice, divisions
        )
        work = work._replace(checkpoints=checkpoints)
    return work


def _settings(
    work: Work, recipe: FoldRecipe, bags: BagSet, folds: npt.NDArray[np.int64], seed: int
) -> dict[str, Any]:
    """Return everything that determines the results of the folds, as plain values."""
    kind = TabularBagsDataModule if isinstance(bags, BagFile) else FeatureBagsDataModule
    arguments = data_arguments(work.config, work.files, bags)
    if isinstance(bags, FeatureSet) and arguments["features"] is None:
        arguments["features"] = str(bags.path.parent / "features")
    left_out = ("build", "first", "device", "num_workers")
    training = dataclasses.asdict(recipe)
    return {
        "data": str(work.files.data),
        "data_hash": fingerprint(kind, arguments),
        "bags": bags.labels.size,
        "folds": int(folds.max()) + 1,
        "repeats": len(folds),
        "seed": seed,
        "select": work.choice.select,
        "together": work.together,
        "model": work.config.section("model"),
        "training": {k: v for k, v in training.items() if k not in left_out},
    }


def _scored(
    bags: BagSet,
    folds: npt.NDArray[np.int64],
    tasks: Sequence[FoldTask],
    results: Sequence[FoldResult],
    options: TimeOptions,
) -> tuple[FoldPredictions | TargetFolds, FoldPredictions | FoldScores]:
    """Collect the predictions of the test bags of all folds, and return them and their scores."""
    if bags.task not in CLASS_TASKS:
        found = target_folds(bags, tasks, results, options)
        return found, found.scores()
    thresholds = {task[1][1:]: r.threshold for task, r in zip(tasks, results, strict=True)}
    of_classes = FoldPredictions(
        bag_ids=bag_ids_of(bags),
        labels=bags.labels,
        folds=folds,
        probabilities=_probabilities(folds, tasks, results),
        thresholds=thresholds,
        task=bags.task,
        class_names=tuple(class_names_of(bags)),
        groups=bags.groups,
    )
    return of_classes, of_classes


def _probabilities(
    folds: npt.NDArray[np.int64], tasks: Sequence[FoldTask], results: Sequence[FoldResult]
) -> npt.NDArray[np.float64]:
    found = np.zeros((*folds.shape, *results[0].probabilities.shape[1:]))
    for (_, key), result in zip(tasks, results, strict=True):
        found[key[1], result.test] = result.probabilities
    return found


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
