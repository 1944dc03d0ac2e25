"""The part of a cross-validation that knows times, values and grades."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from datamodules.mil.targets.checks import check_training_targets
from engine.cross_validation.fold import (
    BagSet,
    FoldRecipe,
    FoldResult,
    FoldTask,
    training_part,
)
from engine.cross_validation.folds import naming_fold, validation_bags
from engine.cross_validation.inputs import bag_ids_of, class_names_of
from evaluation.mil.collector import BagScores
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.folds import TargetFolds, TimeOptions
from evaluation.targets.from_scores import target_predictions


def check_targets(bags: BagSet, tasks: Sequence[FoldTask], recipe: FoldRecipe) -> None:
    """Check before work starts that the training bags of every fold have targets to learn from.

    Args:
        bags: all bags.
        tasks: the folds.
        recipe: training settings; with a selection, bags to validate on are no training bags.

    Raises:
        ValueError: they have not; the message names the fold.
    """
    if not bags.targets.apply:
        return
    for folds, key in tasks:
        train = training_part(folds, key)
        if recipe.selection is not None:
            with naming_fold(key):
                train &= ~validation_bags(bags, train, recipe.selection.val_fraction, key)
        where = f"training bags of repeat {key[1]}, fold {key[2]}: "
        check_training_targets(bags.path, bags.labels[train], bags.targets, where)


def target_folds(
    bags: BagSet,
    tasks: Sequence[FoldTask],
    results: Sequence[FoldResult],
    options: TimeOptions,
) -> TargetFolds:
    """Return the predictions of the folds in the user's units, ready to be scored.

    Args:
        bags: all bags.
        tasks: the folds.
        results: their results.
        options: how times are scored.
    """
    names, ids = _names(bags), bag_ids_of(bags)
    found = dict(_predictions(bags, tasks, results, ids, names))
    return TargetFolds(bags.task, bags.labels, dict(sorted(found.items())), options)


def _names(bags: BagSet) -> Sequence[str]:
    return class_names_of(bags) if bags.task == "ordinal" else bags.target_names


def _predictions(
    bags: BagSet,
    tasks: Sequence[FoldTask],
    results: Sequence[FoldResult],
    ids: Sequence[str],
    names: Sequence[str],
) -> Iterator[tuple[tuple[int, int], TargetPredictions]]:
    for (_, (_, repeat, fold)), result in zip(tasks, results, strict=True):
        numbers: npt.NDArray[np.int64] = np.flatnonzero(result.test)
        scores = BagScores(
            bag_ids=tuple(ids[n] for n in numbers),
            index=numbers,
            labels=bags.labels[numbers],
            probabilities=result.probabilities,
            groups=tuple(bags.groups[n] for n in numbers) if bags.groups else (),
        )
        yield (
            (repeat, fold),
            target_predictions(scores, bags.task, result.coding, result.training_bags, names),
        )
