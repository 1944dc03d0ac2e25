"""Prediction of files with a checkpoint, for the evaluation commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from datamodules.seg.base import SegDataModule
from datamodules.seg.dataset import ImageChange
from datamodules.transforms.raw.data import LightChange
from datamodules.transforms.resize import target_size
from engine.checkpoints.data import data_at
from engine.checkpoints.restore import Restored, restore
from engine.deploy.checked_coco import image_folder_of
from formats.coco.predictions import CocoPredictions
from formats.image_limits import check_size
from lightning_modules.rebuilding import class_of
from lightning_modules.segmentation import SegmentationModule
from models.seg.inference.predict import LARGEST_SCALE, InferenceOptions, changed_options
from models.seg.inference.views import LARGEST_FRAME
from structures import AnnotationPolicy, CategoryMap


def quiet_trainer(precision: str) -> pl.Trainer:
    """Return a trainer that predicts on one device and writes nothing."""
    return pl.Trainer(
        logger=False,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def restored_as(checkpoint: Path, kind: type[Any]) -> Restored:
    """Restore a checkpoint and check the class of its module.

    Raises:
        ValueError: the checkpoint is broken or holds a module of another class.
    """
    restored = restore(checkpoint)
    if not isinstance(restored.module, kind):
        raise ValueError(
            f"{checkpoint}: holds a {type(restored.module).__name__}; this command needs a "
            f"{kind.__name__}"
        )
    if kind is SegmentationModule and not {"category_map", "categories"} <= set(restored.facts):
        raise ValueError(
            f"{checkpoint}: damaged: it lacks category_map or categories; use another checkpoint"
        )
    return restored


def coco_data(
    restored: Restored,
    annotations: Path,
    images: Path | None,
    batch_size: int | None,
    bad_data: AnnotationPolicy,
    scale: float | None = None,
    *,
    truth: Mapping[str, Any] | None = None,
    light: LightChange | None = None,
) -> SegDataModule:
    """Return a COCO file's images with a checkpoint's validation preprocessing.

    See `predict_coco` for the arguments.

    Raises:
        ValueError: the scale is out of range, or files are faulty.
    """
    if scale is not None and not 0 < scale <= LARGEST_SCALE:
        raise ValueError(
            f"scale is a factor on the size of images in (0, {LARGEST_SCALE:g}], got {scale:g}"
        )
    section = data_at(annotations, restored.record, images or image_folder_of(annotations))
    arguments = section["init_args"] | {"bad_data": bad_data}
    if scale is not None:
        arguments |= {"scale": scale, "eval_short_side": None, "max_long_side": None}
    if batch_size is not None:
        arguments["eval_batch_size"] = batch_size
    if light is not None:
        arguments |= light.arguments(arguments)
    datamodule: Any = class_of(section)
    built: SegDataModule = datamodule(**arguments)
    if truth is not None:
        built.set_ground_truth(truth)
    if light is not None and built.left_alone("test"):
        raise ValueError(
            f"{annotations}: its images are what a camera has taken, so their light cannot be "
            "changed; leave out --light, or name ordinary images"
        )
    return built


def check_frames(
    source: Path,
    records: Iterable[Mapping[str, Any]],
    resizing: Mapping[str, Any],
    options: InferenceOptions | None,
) -> None:
    """Reject images that would be resized to too many pixels, before any image is read.

    Args:
        source: file that lists the images.
        records: ``id``, ``file_name``, ``height`` and ``width`` of each image.
        resizing: ``short_side``, ``scale`` and ``max_long_side`` of `target_size`.
        options: views of the images, or None.

    Raises:
        ValueError: an image, or a view of it, would have more than `LARGEST_FRAME` pixels.
    """
    largest = max(options.scales) if options is not None else 1.0
    for record in records:
        size = (int(record["height"]), int(record["width"]))
        height, width = (int(side * largest + 0.5) for side in target_size(size, **resizing))
        if height * width > LARGEST_FRAME:
            raise ValueError(
                f"{source}: image {record['id']} ({record['file_name']}) of {size[0]} x {size[1]} "
                f"pixels would be predicted at {height} x {width}, more than {LARGEST_FRAME} "
                "pixels; choose smaller sizes (--scale, --size, --tta-scales)"
            )


def _check_masks(checkpoint: Path, network: Any) -> None:
    if not getattr(network, "predicts_masks", True):
        raise ValueError(
            f"{checkpoint}: its {type(network).__name__} predicts boxes without masks; use a "
            "checkpoint of a model that predicts masks"
        )


def predict_coco(
    checkpoint: Path,
    annotations: Path,
    images: Path | None,
    batch_size: int | None = None,
    bad_data: AnnotationPolicy = "error",
    *,
    scale: float | None = None,
    inference: Mapping[str, Any] | None = None,
    truth: Mapping[str, Any] | None = None,
    light: LightChange | None = None,
    masks: bool = False,
) -> CocoPredictions:
    """Run a segmentation checkpoint on a COCO file with the preprocessing it was validated with.

    Args:
        checkpoint: file written by `train.py`.
        annotations: COCO ground truth.
        images: image folder; None searches next to the annotations.
        batch_size: images per batch; None uses the checkpoint's, which reproduces its logged
            metric.
        bad_data: treatment of faulty images and annotations.
        scale: factor on the size of every image, instead of the checkpoint's sizes.
        inference: values of `InferenceOptions` that override the checkpoint's.
        truth: content of the annotations from `engine.deploy.checked_coco.read_to_predict`, to
            share it between checkpoints; None reads and checks the file.
        light: how the images are lit, instead of the checkpoint's ``low_light.evaluate``.
        masks: refuse a model that predicts boxes alone.

    Raises:
        ValueError: a file is missing or broken, its classes differ from the checkpoint's,
            ``inference`` is incompatible with the checkpoint's options, an image would become
            too large, or masks are needed and the model has none.
    """
    return prepare_coco(
        checkpoint,
        annotations,
        images,
        batch_size,
        bad_data,
        scale=scale,
        inference=inference,
        truth=truth,
        light=light,
        masks=masks,
    ).predict()


def prepare_coco(
    checkpoint: Path,
    annotations: Path,
    images: Path | None,
    batch_size: int | None = None,
    bad_data: AnnotationPolicy = "error",
    *,
    scale: float | None = None,
    inference: Mapping[str, Any] | None = None,
    truth: Mapping[str, Any] | None = None,
    light: LightChange | None = None,
    masks: bool = False,
) -> CocoPredictor:
    """Restore a checkpoint and check a COCO file, for predicting it several times.

    See `predict_coco` for arguments and errors.
    """
    restored = restored_as(checkpoint, SegmentationModule)
    if masks:
        _check_masks(checkpoint, restored.module.network)
    data = coco_data(
        restored, annotations, images, batch_size, bad_data, scale, truth=truth, light=light
    )
    module: Any = restored.module
    module.inference = changed_options(module.inference, inference or {})
    return checked_predictor(restored, data, annotations)


def checked_predictor(restored: Restored, data: SegDataModule, annotations: Path) -> CocoPredictor:
    """Check the sizes of images, and return what predicts them; see `predict_coco` for errors."""
    resizing = {
        "short_side": data.eval_short_side,
        "scale": data.scale,
        "max_long_side": data.max_long_side,
    }
    records = data.image_records("test")
    for record in records:
        file = Path(record.get("path", record["file_name"]))
        size = (record["height"], record["width"])
        check_size(file, size, data.image_options.max_megapixels)
    options: Any = restored.module
    check_frames(annotations, records, resizing, options.inference)
    return CocoPredictor(restored, data)


class CocoPredictor:
    """A checkpoint with the images of a COCO file, see `prepare_coco`.

    Attributes:
        restored: the checkpoint.
        module: the module of the checkpoint.
        data: the images.
    """

    def __init__(self, restored: Restored, data: SegDataModule) -> None:
        self.restored, self.data = restored, data
        self.module: Any = restored.module
        self._trainer = quiet_trainer(restored.precision)

    def predict(self, change: ImageChange | None = None) -> CocoPredictions:
        """Return the predictions of all images.

        Args:
            change: what is done to each image as it was read, or None.
        """
        module, data = self.module, self.data
        data.image_change = change
        self._trainer.test(module, datamodule=data, verbose=False)
        cap = module.network.max_dets
        known, whole = in_classes(data.labelled_truth("test"), module.category_map), None
        if data.known_split is not None:
            whole = data.ground_truth("test")
        weights = sum(parameter.numel() for parameter in module.model.parameters())
        return CocoPredictions(known, module.results, cap, weights, data.problems, whole)


def in_classes(truth: dict[str, Any], classes: CategoryMap) -> dict[str, Any]:
    """Return ground truth in the classes of a model's predictions.

    Args:
        truth: COCO dictionary with the categories of the data.
        classes: of the predictions: the same, or a single one into which all are merged.
    """
    if len(classes) > 1 or len(truth["categories"]) <= 1:
        return truth
    one = {"category_id": classes.ids[0]}
    merged = [annotation | one for annotation in truth["annotations"]]
    return {**truth, "annotations": merged, "categories": classes.to_coco()}
