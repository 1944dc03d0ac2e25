"""Prediction of bags with a checkpoint, once or several times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from datamodules.mil.base import BagChange, MILDataModule
from datamodules.mil.splits import BagSplit
from engine.checkpoints.data import data_at, takes
from engine.checkpoints.restore import Restored
from engine.config.sections import instantiate_data, read_data_section
from engine.deploy.predict import quiet_trainer, restored_as
from evaluation.mil.predictions_csv import BagPredictions
from formats.files import file_hash
from lightning_modules.mil import MILModule
from lightning_modules.rebuilding import class_of
from structures import BadDataPolicy
from structures.tasks import CLASS_TASKS


def predict_bags(
    checkpoint: Path,
    data_file: Path,
    features: Path | None = None,
    bad_data: BadDataPolicy = "error",
    *,
    allow_overlap: bool = False,
) -> BagPredictions:
    """Run a MIL checkpoint with the preprocessing that was fitted on its training bags.

    Args:
        checkpoint: file written by `train.py`.
        data_file: an npz file or a CSV of slides, of which all bags are scored. If the checkpoint
            was trained on the same file, only the test split of that training is scored. A recipe
            is also allowed; its test split is scored.
        features: folder of the slides' features, if it does not follow from the others.
        bad_data: ``skip`` leaves out faulty bags, regardless of the recipe or the training.
        allow_overlap: whether patients, or bags, that were trained on may be scored.

    Raises:
        ValueError: a file is missing, broken, or does not fit the checkpoint, its bags have no
            labels, or some of them were trained on.
    """
    found = prepare_bags(checkpoint, data_file, features, bad_data, allow_overlap=allow_overlap)
    return found.predict()


def prepare_bags(
    checkpoint: Path,
    data_file: Path,
    features: Path | None = None,
    bad_data: BadDataPolicy = "error",
    *,
    allow_overlap: bool = False,
) -> BagPredictor:
    """Restore a checkpoint and check the bags, for predicting them several times.

    See `predict_bags` for arguments and errors.
    """
    restored = restored_as(checkpoint, MILModule)
    named = getattr(class_of(restored.data), "path_argument", None)
    own = restored.data["init_args"].get(named)
    everything = is_own = False
    if data_file.suffix.lower() in (".yaml", ".yml"):
        section = read_data_section(data_file)
    elif own and Path(own).is_file() and file_hash(Path(own)) == file_hash(data_file):
        rank_zero_info(f"{data_file} was trained on: its test split is scored")
        section, is_own = restored.data, True
    else:
        section = data_at(data_file, restored.record, features)
        everything = True
    changed: dict[str, str] = {} if bad_data == "error" else {"bad_data": bad_data}
    if features is not None and takes(section, "features"):
        changed["features"] = str(features)
    section = {**section, "init_args": {**section.get("init_args", {}), **changed}}
    data: Any = instantiate_data(section, restored.facts["preprocessing"])
    _check_bags(data, data_file, restored)
    split: BagSplit = "predict" if everything else "test"
    _check_labels(data, data_file, split)
    if not (is_own or allow_overlap):  # older checkpoints do not say what they were trained on
        known = restored.facts.get("trained_on", {})
        data.members(split).check_apart(known, data_file, f"the training bags of {checkpoint}")
    return BagPredictor(restored, data, split, (checkpoint, data_file), section)


class BagPredictor:
    """A checkpoint with the bags that it scores, see `prepare_bags`.

    Attributes:
        restored: content of the checkpoint.
        module: its module.
        data: the bags.
        split: which of them are scored: ``predict``, all of a file, or ``test``.
        files: checkpoint and data.
        section: configuration of the data.
    """

    def __init__(
        self,
        restored: Restored,
        data: MILDataModule,
        split: BagSplit,
        files: tuple[Path, Path],
        section: dict[str, Any],
    ) -> None:
        self.restored, self.data, self.split = restored, data, split
        self.module: Any = restored.module
        self.files, self.section = files, section
        self._trainer = quiet_trainer(restored.precision)

    def predict(self, change: BagChange | None = None) -> BagPredictions:
        """Return the predictions of all bags.

        Args:
            change: what is done to each bag as it was read, or None.
        """
        module, data = self.module, self.data
        data.bag_change = change
        everything = self.split == "predict"
        bags: Any = (
            {"dataloaders": data.predict_dataloader()} if everything else {"datamodule": data}
        )
        try:
            self._trainer.test(module, verbose=False, **bags)
        finally:
            data.bag_change = None
        scores, task = module.bag_scores, module.task
        return BagPredictions(
            scores,
            task,
            data.problems,
            threshold=module.threshold,
            files=self.files,
            target=None if task in CLASS_TASKS else module.target_predictions(scores),
            names=tuple(module.class_names),
        )


def _check_labels(data: MILDataModule, source: Path, split: BagSplit) -> None:
    labels = data.contents(split)[0]
    unknown = np.isnan(labels) if labels.dtype == np.float64 else labels < 0
    if labels.size and unknown.all():
        kind = "" if data.task in CLASS_TASKS else f" of the task {data.task}"
        raise ValueError(
            f"{source}: the bags have no labels{kind}, so they cannot be scored; add labels, or "
            "write only scores by `python train.py predict`"
        )


def check_targets(data: Any, source: Path, module: Any) -> None:
    """Reject bags with targets of another kind, or with other values, than a model predicts.

    Raises:
        ValueError: the tasks or the names of the values differ.
    """
    if data.task != module.task and not {data.task, module.task} <= CLASS_TASKS:
        raise ValueError(
            f"{source}: the targets are those of {data.task}, the checkpoint was trained on "
            f"{module.task}"
        )
    names = tuple(getattr(data, "target_names", ()))
    if module.task == "regression" and names != module.target_names:
        raise ValueError(
            f"{source}: the values are {', '.join(names)}, the checkpoint predicts "
            f"{', '.join(module.target_names)}"
        )


def _check_bags(data: Any, source: Path, restored: Restored) -> None:
    """Reject data that does not match the model."""
    links = restored.links
    if not isinstance(data, MILDataModule):
        raise ValueError(f"{source}: holds no bags ({type(data).__name__})")
    check_targets(data, source, restored.module)
    if data.in_features != links["in_features"]:
        raise ValueError(
            f"{source}: bags have {data.in_features} features, the checkpoint was trained on "
            f"{links['in_features']}"
        )
    if data.num_classes > links["num_classes"]:
        raise ValueError(
            f"{source}: bags have {data.num_classes} classes, the checkpoint knows "
            f"{links['num_classes']}"
        )
