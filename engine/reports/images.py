"""Images of a report: ground truth, predictions and pixels of a run, predicted once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datamodules.seg.base import SegDataModule
from engine.checkpoints.data import data_at, own_data, takes
from engine.checkpoints.restore import Restored
from engine.config.sections import instantiate_data
from engine.deploy.checked_coco import image_folder_of, read_to_predict
from engine.deploy.predict import (
    checked_predictor,
    in_classes,
    quiet_trainer,
    restored_as,
)
from engine.reports.cache import cache_folder, data_digest
from engine.reports.folder import RunFolder
from formats.coco.results import Row, read_results, write_results
from formats.files import file_hash, write_json
from formats.images import read_rgb
from lightning_modules.rebuilding import class_of
from lightning_modules.segmentation import SegmentationModule
from structures import AnnotationPolicy, Problem

Pixels = npt.NDArray[np.uint8]
Split = Literal["val", "test"]

_KNOWN = (
    "the model was trained on known categories, and only these are scored, so that a detection of "
    "a novel object counts as an error; `python evaluate.py open-world` scores novel ones too"
)


@dataclass(frozen=True)
class ImageSource:
    """Data that flags name, instead of a run's own.

    Attributes:
        annotations: COCO ground truth, or None for the run's own data.
        images: image folder; None searches next to the annotations.
        bad_data: how faulty records are handled.
    """

    annotations: Path | None = None
    images: Path | None = None
    bad_data: AnnotationPolicy = "error"


@dataclass(frozen=True)
class ImageRun:
    """What a run predicts for images.

    Attributes:
        run: the run folder.
        truth: content of a COCO instances file.
        rows: COCO results rows.
        problems: problems of records that were left out or repaired.
        read: returns the (h, w, 3) uint8 pixels of an image by its id.
        data: what the images are, for people.
        split: ``test``, ``validation`` or the name of the file.
        data_hash: hash of the data.
        annotations: file of the ground truth.
        predictions: file of the rows.
        max_dets: detections per image that count.
        parameters: of the model, None where they are unknown.
        predicted: whether the checkpoint predicted just now, for the first time.
        notes: what readers should know.
    """

    run: RunFolder
    truth: dict[str, Any]
    rows: list[Row]
    problems: tuple[Problem, ...]
    read: Callable[[Any], Pixels]
    data: str
    split: str
    data_hash: str
    annotations: Path
    predictions: Path
    max_dets: int
    parameters: int | None
    predicted: bool
    notes: tuple[str, ...] = ()


def read_image_run(run: RunFolder, source: ImageSource) -> ImageRun:
    """Return the predictions of a run, which a checkpoint makes where none are kept.

    Args:
        run: a run on images.
        source: data that flags name.

    Raises:
        ValueError: the checkpoint or data are missing or faulty, or do not belong together.
    """
    if run.predictions is None:
        return _of_checkpoint(run, source)
    if run.predictions.name == "predict.json" and source.annotations is None:
        raise ValueError(
            f"{run.folder} has predictions without ground truth; name it by --annotations, or give "
            "a folder of `python train.py fit` or `test`"
        )
    return _of_test(run, run.predictions, source)


def _of_checkpoint(run: RunFolder, source: ImageSource) -> ImageRun:
    """Predict with the checkpoint of a run of `fit`, or read what it has predicted before."""
    assert run.checkpoint is not None
    restored = restored_as(run.checkpoint, SegmentationModule)
    section = _section(restored, source)
    data: Any = instantiate_data(section, restored.facts["preprocessing"])
    if not isinstance(data, SegDataModule):
        raise ValueError(f"{run.checkpoint}: was trained on data without images")
    split = "test" if source.annotations else _split(data)
    module: Any = restored.module
    folder = cache_folder(run.folder, run.checkpoint, section, split, source.bad_data)
    predictions, annotations = folder / "test.json", folder / "annotations.json"
    truth = in_classes(data.labelled_truth(split), module.category_map)
    predicted = not predictions.is_file()
    if predicted:
        if split == "test":
            checked_predictor(restored, data, source.annotations or run.checkpoint).predict()
        else:
            quiet_trainer(restored.precision).validate(module, datamodule=data, verbose=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(annotations, truth)
        write_results(predictions, module.results)
    rows, _ = read_results(predictions, truth)
    return ImageRun(
        run=run,
        truth=truth,
        rows=rows,
        problems=data.problems,
        read=_reader(data, split),
        data=_named(section, source),
        split=_split_text(split, source),
        data_hash=data_digest(section),
        annotations=annotations if source.annotations is None else source.annotations,
        predictions=predictions,
        max_dets=int(module.network.max_dets),
        parameters=sum(p.numel() for p in module.model.parameters()),
        predicted=predicted,
        notes=(_KNOWN,) if data.known_split is not None else (),
    )


def _section(restored: Restored, source: ImageSource) -> dict[str, Any]:
    """Return the data of a checkpoint: what flags name, or its own."""
    if source.annotations is None:
        section = own_data(restored.record)
    else:
        folder = source.images or image_folder_of(source.annotations)
        section = data_at(source.annotations, restored.record, folder)
    if source.annotations is None and source.bad_data == "error":
        return section
    return _with_policy(section, source.bad_data)


def _with_policy(section: Mapping[str, Any], bad_data: str) -> dict[str, Any]:
    given = {"bad_data": bad_data} if takes(section, "bad_data") else {}
    return {**section, "init_args": {**section.get("init_args", {}), **given}}


def _split(data: SegDataModule) -> Split:
    """Return ``test``, or ``val`` where there are no test images with annotations of their own."""
    try:
        test = data.image_records("test")
        data.labelled_truth("test")
    except ValueError:
        return "val"
    try:
        return "val" if test == data.image_records("val") else "test"
    except ValueError:
        return "test"


def _reader(data: SegDataModule, split: Split) -> Callable[[Any], Pixels]:
    images = data.source(split)
    place = {record["id"]: n for n, record in enumerate(data.image_records(split))}
    return lambda image_id: images.read(place[image_id]).image


def _split_text(split: Split, source: ImageSource) -> str:
    if source.annotations is not None:
        return source.annotations.name
    return {"val": "validation", "test": "test"}[split]


def _named(section: Mapping[str, Any], source: ImageSource) -> str:
    if source.annotations is not None:
        return str(source.annotations)
    named = class_of(section)
    where = section.get("init_args", {}).get("root")
    name = "data" if named is None else named.__name__.removesuffix("DataModule")
    return f"{name} {where}" if where else name


def _of_test(run: RunFolder, predictions: Path, source: ImageSource) -> ImageRun:
    """Read the predictions of a run of `test` and the data that they are of."""
    if source.annotations is not None:
        folder = source.images or image_folder_of(source.annotations)
        truth, problems = read_to_predict(source.annotations, folder, source.bad_data)
        files = {image["id"]: image for image in truth["images"]}

        def read(image_id: Any) -> Pixels:
            record = files[image_id]
            stated = (int(record["height"]), int(record["width"]))
            return read_rgb(folder / record["file_name"], stated=stated)

        data, digest, annotations = str(source.annotations), None, source.annotations
        split: Split = "test"
    else:
        truth, problems, read, data, digest, split = _own_truth(run, source)
        annotations = run.folder / "report" / "annotations.json"
        annotations.parent.mkdir(parents=True, exist_ok=True)
        write_json(annotations, truth)
    rows, dropped = read_results(predictions, truth, source.bad_data)
    max_dets, parameters = _model_facts(run)
    return ImageRun(
        run=run,
        truth=truth,
        rows=rows,
        problems=(*problems, *dropped),
        read=read,
        data=data,
        split=_split_text(split, source),
        data_hash=digest or file_hash(annotations),
        annotations=annotations,
        predictions=predictions,
        max_dets=max_dets,
        parameters=parameters,
        predicted=False,
    )


def _own_truth(run: RunFolder, source: ImageSource) -> tuple[Any, ...]:
    """Return the ground truth, problems, reader, name, hash and split of a run of `test`."""
    section = run.config.get("data")
    if not isinstance(section, dict) or "class_path" not in section:
        raise ValueError(
            f"{run.folder / 'config.yaml'}: names no data; name them by --annotations and --images"
        )
    if source.bad_data != "error":
        section = _with_policy(section, source.bad_data)
    data: Any = instantiate_data(section, {})
    split: Split = "test"
    truth = in_classes(data.labelled_truth(split), data.category_map)
    shown = "val" if _split(data) == "val" else split  # data without a test split test on it
    digest = data_digest(section)
    reader = _reader(data, split)
    return truth, data.problems, reader, _named(section, source), digest, shown


def _model_facts(run: RunFolder) -> tuple[int, int | None]:
    """Return the cap on detections and the number of parameters of the checkpoint, if it exists."""
    if run.checkpoint is None:
        return 100, None
    module: Any = restored_as(run.checkpoint, SegmentationModule).module
    return int(module.network.max_dets), sum(p.numel() for p in module.model.parameters())
