"""The bags and the recipe of a cross-validation, read once by each process."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.mil.feature_set import FeatureFolder, FeatureSet
from datamodules.mil.npz_file import BagFile, read_bag_file
from datamodules.mil.opened_slides import check_patient_label
from datamodules.mil.targets.options import TargetOptions, options_of
from engine.config.recipe import Recipe
from engine.cross_validation.fold import BagSet, FoldRecipe
from engine.cross_validation.recipe import Choice, data_settings, read_recipe
from formats.feature_arrays import FeatureKeys
from structures import BadDataPolicy, MILTask
from structures.tasks import CLASS_TASKS


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

    @property
    def of_slides(self) -> bool:
        """Whether the file is a table of slides."""
        return self.data.suffix.lower() == ".csv"


def read_inputs(config: Recipe, files: BagInputs, choice: Choice) -> tuple[FoldRecipe, BagSet]:
    """Read both again and cache them for the tasks of this process and its child processes."""
    inputs_once.cache_clear()
    return inputs_once(config, files, choice)


@functools.cache  # read once by each process
def inputs_once(config: Recipe, files: BagInputs, choice: Choice) -> tuple[FoldRecipe, BagSet]:
    """Return the recipe and the bags.

    Raises:
        ValueError: the recipe or a file is wrong.
    """
    settings, recipe = data_settings(config), read_recipe(config, choice)
    policy = files.bad_data or settings.get("bad_data", "error")
    task, named = settings.get("task"), settings.get("class_names")
    targets = options_of(settings)._replace(labels_needed=True)
    if not files.of_slides:
        return recipe, _bag_file(files.data, policy, targets, named)
    bags = slides_of(files, settings, named, task, targets)
    if settings.get("augmented", False):
        if recipe.plan.chunk_instances is not None:  # A693
            raise ValueError(f"{config}: augmented draws whole bags; leave out chunk_instances")
        bags.use_versions(range(len(bags)))
    bags.keep_in_memory(range(len(bags)), settings.get("cache_gib", 0.0))
    return recipe, bags


def slides_of(
    files: BagInputs,
    settings: Mapping[str, Any],
    names: Sequence[str] | None,
    task: MILTask | None,
    targets: TargetOptions,
) -> FeatureSet:
    """Return the slides of a table.

    Args:
        files: the table and its features.
        settings: arguments of the data in the recipe.
        names: names of the classes, or None to take them from the table.
        task: what the labels are, or None to see it in the table.
        targets: columns of times and values.

    Raises:
        ValueError: the table or a file is wrong.
    """
    policy = files.bad_data or settings.get("bad_data", "error")
    known: dict[str, str] = FeatureKeys()._asdict()
    keys: list[str] = [settings.get(f"{name}_key", default) for name, default in known.items()]
    unit, label = settings.get("bag", "slide"), settings.get("patient_label", "same")
    check_patient_label(unit, label, task)
    place = FeatureFolder(
        feature_folder(files, settings), FeatureKeys(*keys), unit == "patient", label
    )
    columns = settings.get("label_columns")
    return FeatureSet(files.data, place, names, task, policy, columns, targets)


def _bag_file(
    path: Path, policy: BadDataPolicy, targets: TargetOptions, names: list[str] | None
) -> BagFile:
    """Return the bags of an npz file; the recipe says the task if it is not one of classes."""
    if targets.task is None or targets.task in CLASS_TASKS:
        return read_bag_file(path, bad_data=policy)
    grades = None if targets.task != "ordinal" or names is None else len(names)
    bags = read_bag_file(path, grades, policy, targets.task, targets)
    return bags if grades is None or names is None else bags._replace(class_names=tuple(names))


def feature_folder(files: BagInputs, settings: Mapping[str, Any]) -> Path | None:
    """Return the feature folder: the given one, the recipe's, or None for next to the table."""
    named = settings.get("features")
    if files.features is not None or named is None or (files.data.parent / "features").is_dir():
        return files.features
    return Path(named)


def class_names_of(bags: BagSet) -> list[str]:
    """Return the name of each class, indexed by label, as the datamodules name them."""
    if not isinstance(bags, BagFile):
        return bags.class_names
    if bags.targets.apply or bags.class_names:
        return list(bags.class_names)
    return (
        ["negative", "positive"]
        if bags.num_classes == 2 and bags.task != "multilabel"
        else list(map(str, range(bags.num_classes)))
    )


def bag_ids_of(bags: BagSet) -> tuple[str, ...]:
    """Return the id of each bag, as the datamodules name them."""
    if not isinstance(bags, BagFile):
        return bags.bag_ids
    return tuple(f"{bags.path.stem}_{number}" for number in bags.numbers())
