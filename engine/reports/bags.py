"""Bags of a report: predictions, attention and images of instances of a run, predicted once."""

from __future__ import annotations

import csv
import shutil
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from callbacks.mil.attention import instance_images
from callbacks.results.predictions import PredictionWriter
from datamodules.mil.base import MILDataModule
from datamodules.mil.splits import BagSplit
from engine.checkpoints.restore import Restored, read_record
from engine.config.sections import instantiate_data
from engine.deploy.bags import prepare_bags
from engine.deploy.predict import quiet_trainer, restored_as
from engine.reports.cache import cache_folder, data_digest
from engine.reports.folder import RunFolder
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.report.page.attention import BagAttentionRows
from evaluation.targets.files import read_predictions
from formats.files import file_hash
from lightning_modules.mil import MILModule
from lightning_modules.rebuilding import class_of
from structures import BadDataPolicy, MILTask

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class BagSource:
    """Data that flags name, instead of a run's own.

    Attributes:
        data: npz of bags, CSV of slides or recipe, or None for the run's own data.
        features: folder of the slides' features, or None.
        bad_data: how faulty bags are handled.
        allow_overlap: whether patients, or bags, that were trained on may be scored.
    """

    data: Path | None = None
    features: Path | None = None
    bad_data: BadDataPolicy = "error"
    allow_overlap: bool = False


@dataclass(frozen=True)
class BagRun:
    """What a run predicts for bags.

    Attributes:
        run: the run folder.
        found: predictions, as read from ``table``.
        table: CSV of the predictions.
        classes: names of the classes, empty for times and values.
        attention: by bag id; empty for a model without attention.
        images: returns (n, h, w) or (n, h, w, 3) images of a bag's instances, or None.
        data: what the bags are, for people.
        split: ``test``, ``validation`` or the name of the file.
        data_hash: hash of the data.
        parameters: of the model, None where they are unknown.
        predicted: whether the checkpoint predicted just now, for the first time.
    """

    run: RunFolder
    found: BagPredictions
    table: Path
    classes: tuple[str, ...]
    attention: dict[str, BagAttentionRows]
    images: Callable[[str], Pixels | None]
    data: str
    split: str
    data_hash: str
    parameters: int | None
    predicted: bool


def read_bag_run(run: RunFolder, source: BagSource) -> BagRun:
    """Return the predictions of a run, which a checkpoint makes where none are kept.

    Args:
        run: a run on bags.
        source: data that flags name.

    Raises:
        ValueError: the checkpoint or data are missing or faulty, or do not belong together.
    """
    if run.predictions is None:
        return _of_checkpoint(run, source)
    return _of_test(run, run.predictions, source)


def _of_checkpoint(run: RunFolder, source: BagSource) -> BagRun:
    assert run.checkpoint is not None
    data: Any
    if source.data is not None:
        found = prepare_bags(
            run.checkpoint,
            source.data,
            source.features,
            source.bad_data,
            allow_overlap=source.allow_overlap,
        )
        restored, data, split, section = found.restored, found.data, found.split, found.section
        where = source.data.name
    else:
        restored = restored_as(run.checkpoint, MILModule)
        section = restored.data
        if source.bad_data != "error":
            given = {**section.get("init_args", {}), "bad_data": source.bad_data}
            section = {**section, "init_args": given}
        data = instantiate_data(section, restored.facts["preprocessing"])
        split = "test" if len(data.numbers("test")) else "val"
        where = {"test": "test", "val": "validation"}[split]
    module: Any = restored.module
    folder = cache_folder(run.folder, run.checkpoint, section, split, source.bad_data)
    table = folder / "bags.csv"
    predicted = not table.is_file()
    if predicted:  # a killed call leaves no folder with a part of the files
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        _predict(restored, data, split, part)
        part.replace(folder)
    read = read_predictions(table, source.bad_data, task=_task(module.task))
    return BagRun(
        run=run,
        found=read,
        table=table,
        classes=tuple(module.class_names),
        attention=read_attention(folder / "attention.csv"),
        images=_instances(data, split, read),
        data=str(source.data) if source.data else _named(section),
        split=where,
        data_hash=data_digest(section),
        parameters=sum(p.numel() for p in module.model.parameters()),
        predicted=predicted,
    )


def _predict(restored: Restored, data: MILDataModule, split: BagSplit, folder: Path) -> None:
    """Write what a checkpoint says of the bags of a split, as `test` does."""
    loaders = {"val": data.val_dataloader, "predict": data.predict_dataloader}
    bags: dict[str, Any] = {"datamodule": data}
    if split in loaders:
        bags = {"dataloaders": loaders[split]()}
    trainer: Any = quiet_trainer(restored.precision)
    trainer.callbacks.append(PredictionWriter(folder))
    trainer.test(restored.module, verbose=False, **bags)


def _of_test(run: RunFolder, table: Path, source: BagSource) -> BagRun:
    if source.data is not None:
        raise ValueError(
            f"--data names bags for a checkpoint to predict; {run.folder} has predictions of its "
            "own: leave --data out, or give the folder of the training"
        )
    task, names, parameters = None, (), None
    if run.checkpoint is not None:
        record = read_record(run.checkpoint)
        task = _task(record["blueprint"]["links"].get("task"))
        names = tuple(record["facts"].get("class_names", ()))
        module: Any = restored_as(run.checkpoint, MILModule).module
        parameters = sum(p.numel() for p in module.model.parameters())
    found = read_predictions(table, source.bad_data, task=task)
    section = run.config.get("data") or {}
    try:
        images = _instances(instantiate_data(section, {}), "test", found)
    except (ValueError, OSError, KeyError):  # moved since: the predictions are enough
        images = _no_images
    return BagRun(
        run=run,
        found=found,
        table=table,
        classes=names or found.classes,
        attention=read_attention(table.parent / "attention.csv"),
        images=images,
        data=_named(section),
        split="test",
        data_hash=str(run.provenance.get("data_hash") or file_hash(table)),
        parameters=parameters,
        predicted=False,
    )


def _task(task: Any) -> MILTask | None:
    """Return what `read_predictions` cannot see in a table."""
    return "ordinal" if task == "ordinal" else None


def _named(section: Any) -> str:
    named = class_of(section) if section else None
    arguments = section.get("init_args", {}) if section else {}
    where = next((arguments[k] for k in ("path", "table", "bags") if arguments.get(k)), None)
    name = "bags" if named is None else named.__name__.removesuffix("DataModule")
    return f"{name} {where}" if where else name


def _no_images(bag: str) -> Pixels | None:
    del bag
    return None


def _instances(data: Any, split: BagSplit, found: BagPredictions) -> Callable[[str], Pixels | None]:
    """Return a function that returns the instances of a bag as images, None if they are none."""
    names = found.target.bag_ids if found.target is not None else found.scores.bag_ids
    numbers = data.numbers(split)
    if len(numbers) != len(names):
        return _no_images
    place = dict(zip(names, numbers, strict=True))

    def read(bag: str) -> Pixels | None:
        taken = data.source(split).bag(place[bag])
        if taken.coords is not None or (taken.bag_ids and taken.bag_ids[0] != bag):
            return None
        return instance_images(taken.features, None)

    return read


def read_attention(path: Path) -> dict[str, BagAttentionRows]:
    """Return the content of ``attention.csv`` by bag, empty where there is no file."""
    if not path.is_file():
        return {}
    bags: dict[str, array[float]] = {}  # compact: slides have a hundred thousand instances
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        branches = [name for name in reader.fieldnames or () if name.startswith("attention")]
        for row in reader:
            weight = sum(float(row[name]) for name in branches) / len(branches)
            witness = float(row.get("witness") or -1)
            x, y = (float(row.get(name) or "nan") for name in ("x", "y"))
            bags.setdefault(row["bag_id"], array("d")).extend((weight, witness, x, y))
    found = {}
    for bag, numbers in bags.items():
        values = np.frombuffer(numbers).reshape(-1, 4)
        truth = values[:, 1].astype(np.int64)
        found[bag] = BagAttentionRows(values[:, 0], truth, values[:, 2:])
    return found
