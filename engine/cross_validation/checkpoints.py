"""Checkpoints of the folds of a cross-validation, in the format of `train.py`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.mil.features import FeatureBagsDataModule
from datamodules.mil.npz import TabularBagsDataModule
from datamodules.mil.npz_file import BagFile
from datamodules.mil.overlap.members import members_of
from datamodules.readers import arguments_of
from engine.config.recipe import Recipe
from engine.config.sections import filled_model
from engine.cross_validation.finished import fold_name
from engine.cross_validation.fold import CPU, BagSet, Fold, FoldKey, FoldRecipe
from engine.cross_validation.folds import fitted
from engine.cross_validation.inputs import BagInputs, class_names_of, feature_folder
from engine.cross_validation.recipe import Choice, data_settings
from formats.files import atomic_write
from lightning_modules.rebuilding import FORMAT

_SAME = (  # arguments with which other slides are read as those of the training
    "bag", "patient_label", "label_columns", "features_key", "coords_key", "instance_labels_key",
)  # fmt: skip


class FoldCheckpoints(NamedTuple):
    """Writes the checkpoint of each fold.

    Attributes:
        folder: the folder.
        model: the resolved ``model`` section.
        data: the ``data`` section, without the numbers of repeat and fold.
    """

    folder: Path
    model: dict[str, Any]
    data: dict[str, Any]

    def path(self, key: FoldKey) -> Path:
        """Return the file of a fold."""
        return self.folder / f"{fold_name(key)}.ckpt"

    def write(self, key: FoldKey, fold: Fold, bags: BagSet, recipe: FoldRecipe) -> None:
        """Write the weights of a trained fold with all that `evaluate.py mil` needs."""
        module, (_, repeat, number) = fold.module, key
        arguments = self.data["init_args"] | {"repeat": repeat, "fold": number}
        record = {
            "format": FORMAT,
            "blueprint": {
                "model": self.model,
                "data": {**self.data, "init_args": arguments},
                "links": _links(bags),
            },
            "facts": {
                **module.target_facts(),
                "class_names": class_names_of(bags),
                "threshold": module.threshold,
                "progress": module.progress,
                "preprocessing": _preprocessing(arguments, fold, bags, recipe),
                **_extraction(bags),
                "trained_on": members_of(bags, fold.numbers).record(),
            },
            "precision": "32-true",
        }
        content = {
            "state_dict": {name: value.to(CPU) for name, value in module.state_dict().items()},
            "segmil": record,
            "pytorch-lightning_version": version("pytorch-lightning"),
        }
        with atomic_write(self.path(key), durable=True) as file:
            torch.save(content, file)


def fold_checkpoints(
    folder: Path,
    config: Recipe,
    files: BagInputs,
    bags: BagSet,
    recipe: FoldRecipe,
    choice: Choice,
    divisions: tuple[int, int],
) -> FoldCheckpoints:
    """Return a writer of checkpoints that rebuild their fold's bags.

    Args:
        folder: folder to write to.
        config: the recipe.
        files: the files of the bags.
        bags: the bags.
        recipe: the training settings read from the recipe.
        choice: which weights are taken.
        divisions: number of folds, and the seed that drew them.
    """
    arguments = data_arguments(config, files, bags)
    share = choice.val_fraction if choice.select == "best" else recipe.val_fraction
    arguments |= {"val_fraction": share, "num_folds": divisions[0], "split_seed": divisions[1]}
    kind = TabularBagsDataModule if isinstance(bags, BagFile) else FeatureBagsDataModule
    model = filled_model(config.section("model"), **_links(bags))
    return FoldCheckpoints(folder, model, kind.section(arguments))


def data_arguments(config: Recipe, files: BagInputs, bags: BagSet) -> dict[str, Any]:
    """Return the arguments of the datamodule that reads the same bags, as plain values."""
    settings = data_settings(config)
    kind = TabularBagsDataModule if isinstance(bags, BagFile) else FeatureBagsDataModule
    known: dict[str, Any] = {k: v for k, v in settings.items() if k in arguments_of(kind)}
    known |= {str(kind.path_argument): str(files.data)}
    if files.of_slides:
        folder = feature_folder(files, settings)
        known["features"] = None if folder is None else str(folder)
    if files.bad_data is not None:
        known["bad_data"] = files.bad_data
    return known


def _links(bags: BagSet) -> dict[str, Any]:
    return {"num_classes": bags.num_classes, "in_features": bags.in_features, "task": bags.task}


def _extraction(bags: BagSet) -> dict[str, Any]:
    found = None if isinstance(bags, BagFile) else bags.extraction
    return {} if found is None else {"extraction": found}


def _preprocessing(
    arguments: Mapping[str, Any], fold: Fold, bags: BagSet, recipe: FoldRecipe
) -> dict[str, Any]:
    """Return what ``evaluation_arguments`` of the fold's datamodule returns."""
    batch = {"eval_batch_size": arguments.get("eval_batch_size", 1)} | bags.targets.record()
    if not isinstance(bags, BagFile):
        known = {n: arguments[n] for n in _SAME if n in arguments}
        return batch | {"standardise": False} | known
    train = np.zeros_like(fold.test)
    train[fold.numbers] = True
    statistics = fitted(bags, train, recipe)
    if statistics is None:
        return batch | {"standardise": False}
    mean, std, limit = statistics
    return batch | {"mean": mean.tolist(), "std": std.tolist(), "clip": limit}
