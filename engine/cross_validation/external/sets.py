"""External sets: bags of other files, which no fold trains on."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.fingerprint import fingerprint
from datamodules.mil.feature_set import FeatureSet
from datamodules.mil.features import FeatureBagsDataModule
from datamodules.mil.npz import TabularBagsDataModule, packed
from datamodules.mil.npz_file import BagFile, read_bag_file
from datamodules.mil.overlap.members import members_of
from datamodules.mil.targets.strata import unlabelled
from engine.config.recipe import Recipe
from engine.cross_validation.fold import BagSet, FloatArray, Fold, FoldRecipe
from engine.cross_validation.folds import fitted, predict
from engine.cross_validation.inputs import (
    BagInputs,
    class_names_of,
    feature_folder,
    inputs_once,
    slides_of,
)
from engine.cross_validation.reading import reader
from engine.cross_validation.recipe import Choice, data_settings


def read_external(
    config: Recipe,
    files: BagInputs,
    choice: Choice,
    sources: Sequence[BagInputs],
    *,
    allow_overlap: bool = False,
) -> list[BagSet]:
    """Read external sets again, check them, and cache them for child processes.

    Args:
        config: the recipe.
        files: files of the bags that are trained on.
        choice: which weights are taken.
        sources: files of the external sets.
        allow_overlap: whether they may share patients or bags with those that are trained on.

    Raises:
        ValueError: a file is missing or wrong, its bags do not fit those that are trained on or
            have no labels, a set is named twice, or some of its bags are trained on.
    """
    external_once.cache_clear()
    _, bags = inputs_once(config, files, choice)
    trained_on = members_of(bags, range(len(bags.labels))).record()
    names = [str(source.data.resolve()) for source in sources]
    found = []
    for number, source in enumerate(sources):
        if names[number] in names[:number]:
            raise ValueError(f"--external names {source.data} twice; name each set once")
        if source.of_slides != files.of_slides:
            kinds = ("a table of slides", "an npz file")
            mine, other = kinds if source.of_slides else kinds[::-1]
            raise ValueError(
                f"--external {source.data} is {mine}, and --data {files.data} is {other}, whose "
                f"models cannot predict it; give {other}"
            )
        one = external_once(config, files, choice, source)
        _check(one, bags, source)
        if not allow_overlap:
            members = members_of(one, range(len(one.labels)))
            members.check_apart(trained_on, source.data, f"the bags of {files.data}")
        found.append(one)
    return found


@functools.cache  # read once by each process
def external_once(config: Recipe, files: BagInputs, choice: Choice, source: BagInputs) -> BagSet:
    """Return the bags of an external set, prepared as the checkpoint of a fold prepares others.

    Raises:
        ValueError: a file is missing or wrong.
    """
    _, bags = inputs_once(config, files, choice)
    settings = data_settings(config)
    targets = bags.targets._replace(labels_needed=False)
    names = None if targets.apply else class_names_of(bags)
    source = source._replace(bad_data=source.bad_data or files.bad_data)
    if isinstance(bags, FeatureSet):
        return slides_of(
            with_features(source, files, settings), settings, names, bags.task, targets
        )
    policy = source.bad_data or settings.get("bad_data", "error")
    count = None if names is None else len(names)
    return read_bag_file(source.data, count, policy, bags.task, targets)


def with_features(source: BagInputs, files: BagInputs, settings: Mapping[str, Any]) -> BagInputs:
    """Return the files of an external set of slides with the folder of its features.

    It is the given one, ``features`` next to the table, or that of the slides trained on.
    """
    if source.features is not None or (source.data.parent / "features").is_dir():
        return source
    own = feature_folder(files, settings) or files.data.parent / "features"
    return source._replace(features=Path(own))


def _check(one: BagSet, bags: BagSet, source: BagInputs) -> None:
    if one.in_features != bags.in_features:
        raise ValueError(
            f"{source.data}: bags have {one.in_features} features, those of {bags.path} have "
            f"{bags.in_features}; extract the features of both alike"
        )
    if unlabelled(one.labels).all():
        what = ", ".join(bags.targets.columns) or "labels"
        raise ValueError(
            f"{source.data}: the bags have no {what}, so that they cannot be scored; add them, or "
            "predict the bags by --save-checkpoints and `python train.py predict`"
        )


def predict_external(
    fold: Fold, bags: BagSet, sets: Sequence[BagSet], recipe: FoldRecipe
) -> tuple[FloatArray, ...]:
    """Return the predictions of a trained fold for all bags of each external set.

    Features of npz files are standardised as those of the fold's training bags.

    Args:
        fold: the fold; its module is in eval mode on the recipe's device.
        bags: all bags of the cross-validation.
        sets: the external sets.
        recipe: training settings.
    """
    return tuple(
        predict(fold.module, _there(fold, bags, one, recipe).whole_bags(_all(one), recipe))
        for one in sets
    )


def _all(one: BagSet) -> Any:
    return np.ones(len(one.labels), dtype=bool)


def _there(fold: Fold, bags: BagSet, one: BagSet, recipe: FoldRecipe) -> Fold:
    """Return the fold with the bags of an external set in place of its own."""
    if isinstance(one, FeatureSet):
        return replace(fold, read=reader(one, None, fold.seed), slides=one)
    assert isinstance(bags, BagFile)
    train = np.zeros_like(fold.test)
    train[fold.numbers] = True
    source = packed(one, fitted(bags, train, recipe))
    return replace(fold, read=reader(source, None, fold.seed), slides=None)


def settings_of(
    sources: Sequence[BagInputs], files: BagInputs, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what determines the predictions of external sets, for a run that goes on.

    Args:
        sources: files of the external sets.
        files: files of the bags that are trained on.
        settings: arguments of the data in the recipe.
    """
    return [_settings_of(source, files, settings) for source in sources]


def _settings_of(
    source: BagInputs, files: BagInputs, settings: Mapping[str, Any]
) -> dict[str, Any]:
    named = {"external": str(source.data)}
    if not source.of_slides:
        return named | {"hash": fingerprint(TabularBagsDataModule, {"file": str(source.data)})}
    folder = with_features(source, files, settings).features or source.data.parent / "features"
    arguments = {"table": str(source.data), "features": str(folder)}
    return named | {"hash": fingerprint(FeatureBagsDataModule, arguments)}
